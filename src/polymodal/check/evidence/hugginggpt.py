"""Evidence for HuggingGPT: JARVIS's own functions were run on its demonstrations and other recorded plans."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import polymodal as pm
from polymodal.check.agents import Pair, case, mini, picture, recorded, shown
from polymodal.check.record import Evidence, HeadlineResult
from polymodal.systems.hugginggpt.agent import plain_task
from polymodal.systems.hugginggpt.plan import PlanError, Task, choice, dependencies, fill, read, resolved, unfold

RECORD = recorded("hugginggpt")


def plans() -> Iterator[Pair]:
    """Unfolded, with the ids that each task waits for; None for what is no JSON."""
    for row in RECORD["plans"]:
        try:
            rows: Any = unfold(copy.deepcopy(json.loads(row["output"].strip())))
        except ValueError:
            rows = None
        given = None if rows is None else [task | {"dep": _waits(task, row)} for task in rows]
        yield given, row["tasks"]


def _waits(task: dict[str, Any], row: dict[str, Any]) -> list[int]:
    try:
        return dependencies(task["args"])
    except (IndexError, ValueError):
        return []


def whole_plans() -> Iterator[Pair]:
    """Read with our checks: the same tasks and arguments, in order; a plan that the official code cannot read is
    none."""
    for row in RECORD["plans"]:
        try:
            found: Any = [[task.task, dict(task.args)] for task in read(row["output"])]
        except PlanError:
            found = None
        yield found, None if row["tasks"] is None else [[task["task"], task["args"]] for task in row["tasks"]]


def choices() -> Iterator[Pair]:
    return ((list(choice(row["output"])), [row["id"], row["reason"]]) for row in RECORD["choices"])


def fills() -> Iterator[Pair]:
    return ((fill(row["text"], row["slots"]), row["filled"]) for row in RECORD["fills"])


def runs() -> Iterator[Pair]:
    """Tasks and arguments that models were called with, when each made the recorded things."""
    for row in RECORD["runs"]:
        made: dict[int, dict[str, str]] = {}
        given: dict[int, dict[str, str]] = {}
        called: list[Any] = []
        for task in read(row["output"]):
            args = given[task.id] = _public(resolved(task, made, given))
            name = plain_task(task.task, args)
            made[task.id] = RECORD["results"].get(_result_name(task, name), {})
            if name not in ("conversational", "summarization"):
                called.append([_result_name(task, name), args])
        yield called, row["calls"]


def _result_name(task: Task, name: str) -> str:
    """The official code tells its models the old name of a control without words."""
    return task.task if name.endswith("-control") else name


def _public(args: dict[str, str]) -> dict[str, str]:
    """Names as the official server has them."""
    files = {name: value for name, value in args.items() if name in ("image", "audio") and value}
    return args | {n: v if v.startswith(("public/", "http")) else f"public/{v}" for n, v in files.items()}


def headline() -> HeadlineResult:
    """A plan of six tasks over a photograph, two of them wrong, with mini as every model."""
    agent = pm.agent("hugginggpt", planner=lambda messages, stop=(): outputs(messages), tools=[mini()])
    reply = agent.ask(picture(), "Describe it, find what is in it, ask what animal it is and show its edges.")
    errors = {step.id: step.error for step in reply.steps}
    results = {step.id: step.result.lower() for step in reply.steps}
    wanted = (all("cat" in results[id] for id in range(3)), len(reply.media["image"]) == 2,
              "not in the plan" in errors[4], "no file" in errors[5], not any(map(errors.get, range(4))))  # fmt: skip
    return shown(reply, wanted, "a scripted plan, mini's tools, a photograph")


def outputs(messages: Any) -> str:
    """A planner that knows this one plan."""
    if not messages[0]["content"].startswith("Stage 1"):
        return "It is a cat; its edges are drawn."
    name = messages[-1]["content"].split("edges. ")[1].split()[0]
    tasks = (
        ("image-to-text", {"image": name}), ("object-detection", {"image": name}),
        ("visual-question-answering", {"image": "<GENERATED>-1", "text": "What animal is it?"}),
        ("canny-control", {"image": name}), ("image-to-text", {"image": "<GENERATED>-9"}),
        ("image-to-text", {"image": "../secret.png"}),
    )  # fmt: skip
    return json.dumps([{"task": task, "id": id, "dep": [-1], "args": args} for id, (task, args) in enumerate(tasks)])


EVIDENCE = Evidence(
    oracle=f"official code: {RECORD['source']}",
    cases=(),
    recorded=(
        case("plans, unfolded, with what tasks wait for", plans),
        case("plans, checked", whole_plans),
        case("choices of a model", choices),
        case("slots of prompts", fills),
        case("arguments that models get", runs),
    ),
    headline=headline,
    exceptions=(
        "prompts are in our words, with the official roles, slots and JSON; the planner's tasks are those "
        "that there are "
        "tools for",
        "a task that waits for one behind it in the plan, or in a circle, is refused by name; the official "
        "code lets it run "
        "without what it waits for",
        "of an unfolded task each part has an id of its own; the official code gives all the same one and "
        "the last result wins",
        "models are local ones; those of the hub's inference service, and the 23 kinds of tasks that no "
        "model here does, are "
        "named as missing",
        "a small chat model such as mini plans nothing useful; a larger one or an endpoint is needed for that",
    ),
)
