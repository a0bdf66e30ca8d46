"""The loop of thought, action and observation over tools that take one string (arXiv 2210.03629).

    prompt -> planner -> "Thought: ... Yes\\nAction: NAME\\nAction Input: TEXT" -> tool -> "Observation: RESULT"
                      -> "...No\\nAI: answer" -> the answer

The protocol is langchain 0.0.101's `conversational-react-description` (MIT), which Visual ChatGPT and AudioGPT pin: how
an output is read, how the prompt is joined and what stops the planner are its, byte for byte. Traps: `AI:` anywhere in
an output ends the loop, even behind an action; the input is one line; quotes around it fall away.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polymodal.agents.files import Files
from polymodal.agents.planner import Planner
from polymodal.agents.record import AgentLimits, Answer, Clock, Step
from polymodal.agents.tools import MEDIA, Tool, ToolError, as_text, listed
from polymodal.data.media import Media
from polymodal.errors import PolymodalError

AI, HUMAN = "AI", "Human"
OBSERVATION, THOUGHT = "Observation: ", "Thought:"
STOP = (f"\n{OBSERVATION}", f"\n\t{OBSERVATION}")
ACTION = re.compile(r"Action: (.*?)\nAction Input: (.*)")
FORMAT = """To use a tool, please use the following format:

```
Thought: Do I need to use a tool? Yes
Action: the action to take, should be one of [{tool_names}]
Action Input: the input to the action
Observation: the result of the action
```

When you have a response to say to the Human, or if you do not need to use a tool, you MUST use the format:

```
Thought: Do I need to use a tool? No
{ai_prefix}: [your response here]
```
"""
SLOT = re.compile(r"\{(chat_history|input|agent_scratchpad|tools|tool_names|ai_prefix|human_prefix)\}")
SAME = 3  # the same action that often is a loop


class Unreadable(PolymodalError):
    """An output that is neither an action nor an answer."""


@dataclass(frozen=True)
class Action:
    tool: str
    input: str


@dataclass(frozen=True)
class Finish:
    text: str


def read(output: str, ai: str = AI) -> Action | Finish:
    """What an output asks for.  Raises Unreadable."""
    if f"{ai}:" in output:
        return Finish(output.split(f"{ai}:")[-1].strip())
    found = ACTION.search(output)
    if found is None:
        raise Unreadable(f"the planner wrote neither an action nor `{ai}: ...`: {output.strip()[:200]!r}")
    return Action(found[1].strip(), found[2].strip(" ").strip('"'))


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The words around the protocol.  suffix: with {chat_history}, {input} and {agent_scratchpad}.

    whole: a wording of your own in place of all, with these and {tools}, {tool_names}, {ai_prefix}, {human_prefix}.
    """

    prefix: str
    suffix: str
    format: str = FORMAT
    whole: str = ""

    def prompt(self, tools: Sequence[Tool], slots: Mapping[str, str]) -> str:
        """What the planner reads."""
        lines = "\n".join(f"> {tool.name}: {tool.description}" for tool in tools)
        names = ", ".join(tool.name for tool in tools)
        values = {**slots, "tools": lines, "tool_names": names, "ai_prefix": AI, "human_prefix": HUMAN}
        text = self.whole or "\n\n".join([self.prefix, "{tools}", self.format, self.suffix])
        return SLOT.sub(lambda found: values[found[1]], text)


def scratchpad(steps: Sequence[tuple[str, str]]) -> str:
    """The planner's outputs with the observations behind them."""
    return "".join(f"{output}\n{OBSERVATION}{observation}\n{THOUGHT}" for output, observation in steps)


def cut_history(history: str, words: int = 500) -> str:
    """The last paragraphs of a history, fewer than `words` words, as Visual ChatGPT cuts it."""
    count = len(history.split())
    if count < words:
        return history
    paragraphs = history.split("\n")
    while count >= words:
        count -= len(paragraphs[0].split(" "))
        paragraphs = paragraphs[1:]
    return "\n" + "\n".join(paragraphs)


def with_inputs(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """The tools with what their string holds said behind the description."""
    return tuple(replace(tool, description=f"{tool.description}. {_input_of(tool)}".lstrip(". ")) for tool in tools)


def _input_of(tool: Tool) -> str:
    names = [f"{name}_path" if kind in MEDIA else name for name, kind in tool.inputs.items()]
    joined = " and the ".join(names)
    return f"The input is the {joined}, with a comma between." if len(names) > 1 else f"The input is the {joined}."


def split_input(tool: Tool, text: str) -> dict[str, str]:
    """The arguments of a tool from its one string: split at the first commas, all that is left is the last one's."""
    names = list(tool.inputs)
    if not names:
        return {}
    parts = [part.strip() for part in text.split(",", len(names) - 1)]
    return {name: part for name, part in zip(names, parts, strict=False) if part or name not in tool.optional}


def run_tool(tool: Tool, text: str, files: Files) -> tuple[str, str]:
    """(the result in words or the new file's name, the new file's name or "").  Raises ToolError."""
    written = split_input(tool, text)
    arguments: dict[str, Any] = {
        name: files.open(value, tool.inputs[name]) if tool.inputs[name] in MEDIA else value
        for name, value in written.items()
    }
    numbers = [name for name in arguments if tool.inputs[name] == "number"]
    for name in numbers:
        try:
            arguments[name] = float(written[name])
        except ValueError:
            raise ToolError(f"{tool.name}: {name}: expected a number, found {written[name]!r}") from None
    found = tool.call(arguments)
    if tool.output not in MEDIA:
        return as_text(found), ""
    source = next((written[name] for name in written if tool.inputs[name] in MEDIA), "")
    name = files.keep(found, tool.task, source)
    return name, name


@dataclass(kw_only=True)
class ReactAgent:
    """A conversation in this protocol.  history: what was said before, as the planner reads it.

    prepare(file) -> the file as it is kept; introduce(name, files) -> what the history says of it, "" for nothing.
    """

    planner: Planner
    tools: Sequence[Tool]
    wording: Wording
    limits: AgentLimits = field(default_factory=AgentLimits)
    prepare: Callable[[Media], Media] = lambda item: item
    introduce: Callable[[str, Files], str] = lambda name, files: ""
    history: str = ""

    def ask(self, text: str, given: Sequence[str], files: Files) -> Answer:
        """An answer to a request; the names of its files stand behind it, as in the official demo."""
        for name in given:
            files.give(self.prepare(files.open(name, name.partition("/")[0])), name)
        self.history = cut_history(self.history)
        self.history += "".join(self.introduce(name, files) for name in given)
        request = " ".join([text.strip(), *given])
        answer = self._loop(request, files)
        self.history += f"\n{HUMAN}: {request}\n{AI}: {answer.text}"
        return answer

    def _loop(self, request: str, files: Files) -> Answer:
        steps: list[Step] = []
        said: list[tuple[str, str]] = []
        refused, before, clock = 0, len(files.made), Clock(self.limits.seconds)
        text, finish = "", "steps"
        while len(steps) < self.limits.steps:
            slots = {"chat_history": self.history, "input": request, "agent_scratchpad": scratchpad(said)}
            try:
                output = self.planner([{"role": "user", "content": self.wording.prompt(self.tools, slots)}], STOP)
            except PolymodalError as problem:
                if not steps:
                    raise
                steps.append(Step(tool="planner", arguments="", error=str(problem)))
                finish = "planner"
                break
            try:
                wish = read(output)
            except Unreadable as problem:
                refused += 1
                steps.append(Step(tool="", arguments="", error=str(problem), thought=output.strip()[:2000]))
                said.append((output, f"{problem}"))
                if refused > self.limits.retries:
                    finish = "unreadable"
                    break
                continue
            if isinstance(wish, Finish):
                text, finish = wish.text, "stop"
                break
            step, observation = self._step(wish, output, files)
            steps.append(step)
            said.append((output, observation))
            if sum(s.tool == step.tool and s.arguments == step.arguments for s in steps) >= SAME:
                finish = "loop"
                break
            if clock.over:
                finish = "seconds"
                break
        return Answer(
            text=text or stopped(finish, steps), steps=tuple(steps), made=tuple(files.made[before:]), finish=finish
        )

    def _step(self, wish: Action, output: str, files: Files) -> tuple[Step, str]:
        """One action carried out, and what the planner reads of it."""
        thought = output.partition("Action:")[0].replace(THOUGHT, "").strip()
        tool = next((each for each in self.tools if each.name == wish.tool), None)
        begin, result, made, error = time.perf_counter(), "", "", ""
        try:
            if tool is None:
                raise ToolError(f"there is no tool {wish.tool!r}; there are: {listed(t.name for t in self.tools)}")
            result, made = run_tool(tool, wish.input, files)
        except ToolError as problem:
            error = str(problem)
        step = Step(tool=wish.tool, arguments=wish.input, result=result, error=error, made=made, thought=thought,
                    model="" if tool is None else tool.model, seconds=time.perf_counter() - begin)  # fmt: skip
        return step, result or error


def stopped(finish: str, steps: Sequence[Step]) -> str:
    """What is said where the planner gave no answer: why, and what the steps gave."""
    why = {
        "steps": "the planner took all the steps it may and gave no answer",
        "loop": "the planner asks for the same step again and again",
        "seconds": "the time for an answer is over",
        "unreadable": "the planner's outputs cannot be read",
        "planner": "the planner failed",
        "stop": "the planner's answer is empty",
    }[finish]
    done = [f"{step.tool}: {step.result}" for step in steps if step.result]
    return f"({why}; results so far: {'; '.join(done) or 'none'})"
