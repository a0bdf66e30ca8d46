"""HuggingGPT's four stages: plan tasks, choose a model for each, run what is ready at once, answer from the results.

    request -> planner: JSON plan -> checked graph -> [ model chosen -> tool ] in parallel -> planner: the answer

Traps: a plan that cannot be read, an empty one and one of a single text task are answered by the language model itself,
as published; the tasks of text are done by the planner; a task with "-text-to-image" but no text becomes the plain
control. The official code drops what a task waits for when that comes later in the plan; here a circle is refused by
name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.agents.files import Files
from polymodal.agents.graph import Outcome, run_graph
from polymodal.agents.offers import Offer, offered
from polymodal.agents.record import Answer, Clock, Setup, Step
from polymodal.agents.tasks import TASKS, TEXT_TASKS
from polymodal.agents.tools import MEDIA, Box, Tool, ToolError, as_text, listed
from polymodal.data.media import Image
from polymodal.errors import ConfigError, PolymodalError
from polymodal.systems.hugginggpt import prompts
from polymodal.systems.hugginggpt.plan import (
    GENERATED,
    PlanError,
    Task,
    choice,
    fill,
    read,
    resolved,
    whole_graph,
)

OFFERS = tuple(
    Offer(name=task, tasks=(task,)) for task in TASKS if task in prompts.OFFICIAL_TASKS and task not in TEXT_TASKS
)
CANDIDATES, SHOWN = 5, 100  # num_candidate_models, max_description_length


class HuggingAgent:
    """A conversation; what was said is the planner's context."""

    def __init__(self, setup: Setup) -> None:
        if setup.prompt:
            raise ConfigError(
                "hugginggpt has several prompts, in systems/hugginggpt/prompts.py; give it no prompt file"
            )
        self.setup = setup
        self.tools: Sequence[Tool] = offered(OFFERS, setup.tools)
        self._said: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def ask(self, text: str, given: Sequence[str], files: Files) -> Answer:
        request = " ".join([text.strip(), *given])
        answer = self._answer(request, files)
        self._said += [prompts.user(request), prompts.assistant(answer.text)]
        return answer

    def _answer(self, request: str, files: Files) -> Answer:
        there = [*self.setup.tools.tasks, *TEXT_TASKS]
        output = self._planner(prompts.plan_messages(request, self._said, prompts.planned_tasks(there)))
        try:
            tasks = read(output)
        except PlanError as problem:
            step = Step(tool="plan", arguments=output.strip()[:2000], error=str(problem))
            return Answer(text=self._chat(request), steps=(step,), finish="unreadable")
        if not tasks or (len(tasks) == 1 and tasks[0].task in TEXT_TASKS and not tasks[0].wrong):
            return Answer(text=self._chat(request))
        before = len(files.made)
        job = Job(self, request, tasks, files)
        steps = job.run()
        made = tuple(files.made[before:])
        try:
            text = self._planner(prompts.answer_messages(request, [told(step) for step in steps])).strip()
        except PolymodalError as problem:
            failed = Step(tool="planner", arguments="", error=str(problem))
            return Answer(text=f"(the planner failed: {problem})", steps=(*steps, failed), made=made, finish="planner")
        return Answer(text=text, steps=steps, made=made)

    def _chat(self, request: str) -> str:
        return self._planner([*self._said, prompts.user(request)]).strip()

    def _planner(self, messages: Sequence[Mapping[str, str]]) -> str:
        with self._lock:  # tasks run in threads, and a local planner is one model
            return self.setup.planner(messages)


def told(step: Step) -> dict[str, Any]:
    """A step as the planner reads it."""
    made = {"error": step.error} if step.error else {"result": step.result}
    made |= {f"generated {step.made.partition('/')[0]}": step.made} if step.made else {}
    return {"task": {"task": step.tool, "id": step.id, "args": step.arguments}, "inference result": made,
            "choose model result": {"id": step.model, "reason": step.thought}}  # fmt: skip


class Job:
    """The tasks of one plan."""

    def __init__(self, agent: HuggingAgent, request: str, tasks: Sequence[Task], files: Files) -> None:
        self.agent, self.request, self.files = agent, request, files
        self.tasks = {task.id: task for task in tasks}
        self.results: dict[int, dict[str, str]] = {}
        self.args: dict[int, dict[str, str]] = {}
        self.steps: dict[int, Step] = {}
        self._keep = threading.Lock()

    def run(self) -> tuple[Step, ...]:
        """Every task's step, in the order of the plan."""
        limits = self.agent.setup.limits
        late = list(self.tasks)[limits.steps :]
        for id in late:
            self.tasks[id] = replace(self.tasks[id], wrong=f"task {id} is one of more than {limits.steps}, the limit")
        found = run_graph(whole_graph(list(self.tasks.values())), self._work, workers=limits.workers,
                          clock=Clock(limits.seconds))  # fmt: skip
        return tuple(self._step(id, outcome) for id, outcome in found.items())

    def _step(self, id: int, outcome: Outcome) -> Step:
        task = self.tasks[id]
        step = self.steps.get(id, Step(tool=task.task, arguments=str(dict(task.args)), id=id))
        return replace(step, error=outcome.error) if outcome.error else step

    def _work(self, id: int) -> None:
        """One task; whatever is wrong with it, the planner too, is its error alone."""
        try:
            self._run_task(id)
        except ToolError:
            raise
        except PolymodalError as problem:
            raise ToolError(f"task {id}: {problem}") from problem

    def _run_task(self, id: int) -> None:
        task = self.tasks[id]
        if task.wrong:
            raise ToolError(task.wrong)
        self.args[id] = args = resolved(task, self.results, self.args)
        if left := [value for value in args.values() if GENERATED in value]:
            raise ToolError(f"task {id}: {left[0]} names nothing that was made")
        name = plain_task(task.task, args)
        self.steps[id] = step = Step(tool=name, arguments=str(args), id=id)
        begin = time.perf_counter()
        if name in TEXT_TASKS:
            slots = {
                "input": self.request,
                "command": {"task": name, "id": id, "args": args},
                "task": name,
                "args": args,
            }
            result = {"result": self.agent._planner([prompts.user(fill(prompts.DO_TEXT, slots))]).strip()}
            result["generated text"] = result["result"]
            model, reason = "planner", "a language model does this itself"
        else:
            tool, reason = self._chosen(task, name, args)
            self.steps[id] = step = replace(step, model=tool.model or tool.name, thought=reason)
            result, model = self._called(tool, args, id), step.model
        self.results[id] = result
        self.steps[id] = replace(step, model=model, thought=reason, result=result["result"],
                                 made=result.get("made", ""), seconds=time.perf_counter() - begin)  # fmt: skip

    def _chosen(self, task: Task, name: str, args: Mapping[str, str]) -> tuple[Tool, str]:
        """Stage 2.  Raises ToolError for a task that no tool does, and for a choice that is none of them."""
        box = self.agent.setup.tools
        found = box.of(name)[:CANDIDATES]
        if not found:
            there = listed(each for each in box.tasks if each in TASKS)
            raise ToolError(f"task {task.id}: there is no tool for {name!r}; there are tools for {there}")
        if len(found) == 1:
            return found[0], "Only one model available."
        rows = [
            {"id": tool.name, "inference endpoint": ["local"], "description": tool.description[:SHOWN]}
            for tool in found
        ]
        command = {"task": name, "id": task.id, "dep": list(task.dep) or [-1], "args": dict(args)}
        id, reason = choice(self.agent._planner(prompts.choice_messages(self.request, command, rows)))
        tool = next((each for each in found if each.name == id), None)
        if tool is None:
            raise ToolError(f"task {task.id}: the planner chose {id!r}; there are {listed(t.name for t in found)}")
        return tool, reason

    def _called(self, tool: Tool, args: Mapping[str, str], id: int) -> dict[str, str]:
        """Stage 3: what a tool made, by the official code's keys."""
        given: dict[str, Any] = {}
        for name, kind in tool.inputs.items():
            if name in args:
                given[name] = self.files.open(args[name], kind) if kind in MEDIA else args[name]
        found = tool.call(given)
        source = next((args[name] for name, kind in tool.inputs.items() if kind in MEDIA and name in args), "")
        with self._keep:
            if tool.output in MEDIA:
                made = self.files.keep(found, tool.task, source)
                return {"result": made, "made": made, f"generated {tool.output}": made}
            words = as_text(found)
            if tool.output == "boxes" and found:
                made = self.files.keep(drawn(given["image"], found), tool.task, source)
                return {"result": words, "made": made, "generated image": made}
        key = {"generated text": words} if tool.output == "text" and tool.task != "visual-question-answering" else {}
        return {"result": words, **key}


def plain_task(task: str, args: Mapping[str, str]) -> str:
    """A task of drawing under control without words is the control itself."""
    if not task.endswith("-text-to-image") or "text" in args:
        return task
    control = task.split("-")[0]
    return {"seg": "image-segmentation", "depth": "depth-estimation"}.get(control, f"{control}-control")


def drawn(picture: Image, boxes: Sequence[Box]) -> Image:
    """A picture with boxes and their names."""
    from PIL import ImageDraw

    copy = picture.picture.convert("RGB")
    pen = ImageDraw.Draw(copy)
    for box in boxes:
        pen.rectangle((box.left, box.top, box.right, box.bottom), outline="red", width=2)
        pen.text((box.left + 5, max(box.top - 15, 0)), box.label, fill="red")
    return Image(copy)
