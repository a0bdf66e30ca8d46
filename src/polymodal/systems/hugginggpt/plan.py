"""HuggingGPT's plan: a list of tasks with ids, what each waits for, and placeholders for what earlier ones make.

    '[{"task": "image-to-text", "id": 0, "dep": [-1], "args": {"image": "a.jpg"}}, ...]' -> read -> (Task, ...)

`unfold`, `dependencies` and `choice` read what a planner wrote as microsoft/JARVIS at c62e0fa does (`unfold`,
`fix_dep`, `find_json`, `get_id_reason` of server/awesome_chat.py). Traps: `dep` is not believed, it is made anew from
the placeholders; of a comma-joined placeholder each part becomes a task; the official code gives these one id and lets
the last result win, here the first keeps the id and the others get new ones.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.agents.tools import ToolError

GENERATED = "<GENERATED>"
RESOURCES = ("text", "image", "audio")
MOST_TASKS = 100


class PlanError(ToolError):
    """An output that is no plan."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """wrong: why it cannot run whatever the others do, "" where nothing is wrong."""

    id: int
    task: str
    args: Mapping[str, str]
    dep: tuple[int, ...]
    wrong: str = ""


def read(output: str) -> tuple[Task, ...]:
    """The tasks of an output.  Raises PlanError for what is no JSON list; a wrong task is told by its `wrong`."""
    try:
        rows = json.loads(output.strip())
    except (ValueError, RecursionError):
        raise PlanError(f"the planner wrote no JSON: {output.strip()[:200]!r}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PlanError(f"expected a JSON list of tasks, found {output.strip()[:200]!r}")
    if len(rows) > MOST_TASKS:
        raise PlanError(f"the plan has {len(rows)} tasks, the limit is {MOST_TASKS}")
    return numbered([checked(row, index) for index, row in enumerate(rows)])


def checked(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One row of the plan with the kinds that it must have, and what was wrong with it."""
    id, task, args = row.get("id"), row.get("task"), row.get("args")
    wrong = ""
    if type(id) is not int or id < 0:
        wrong, id = (
            f"task {index} of the plan: id: expected a whole number from 0 on, found {str(id)[:40]!r}",
            -2 - index,
        )
    elif not isinstance(task, str) or not task:
        wrong = f"task {id}: task: expected a name, found {str(task)[:40]!r}"
    elif not isinstance(args, dict) or not args:
        wrong = f"task {id}: args: expected a table of text, image or audio, found {str(args)[:80]!r}"
    else:
        for name, value in args.items():
            if name not in RESOURCES:
                wrong = f"task {id}: args: expected {', '.join(RESOURCES)}, found {name[:40]!r}"
            elif not isinstance(value, str):
                wrong = f"task {id}: args: {name}: expected a text, found {str(value)[:80]}"
    kept = {name: value for name, value in args.items() if isinstance(value, str)} if isinstance(args, dict) else {}
    return {"id": id, "task": task if isinstance(task, str) else "", "args": kept, "wrong": wrong}


def unfold(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every comma-joined placeholder one task for each part, in the official code's order: at the end of the list.

    The list is changed while it is walked, as there; a placeholder without a number ends the walk.
    """
    try:
        for task in tasks:
            for key, value in task["args"].items():
                parts = value.split(",") if GENERATED in value else ()
                if len(parts) > 1:
                    for part in parts:
                        new = copy.deepcopy(task)
                        new["dep"] = [int(part.split("-")[1])]
                        new["args"][key] = part
                        tasks.append(new)
                    if len(tasks) > MOST_TASKS:
                        raise PlanError(f"the plan unfolds into more than {MOST_TASKS} tasks")
                    tasks.remove(task)
    except (IndexError, ValueError):
        pass
    return tasks


def dependencies(args: Mapping[str, str]) -> list[int]:
    """The ids that placeholders name, [-1] for none.  Raises ValueError or IndexError for one without a number."""
    found: list[int] = []
    for value in args.values():
        if GENERATED in value and (id := int(value.split("-")[1])) not in found:
            found.append(id)
    return found or [-1]


def numbered(rows: list[dict[str, Any]]) -> tuple[Task, ...]:
    """The unfolded rows as tasks of different ids."""
    names = [row["id"] for row in rows]
    twice = {id for id in names if names.count(id) > 1}
    whole = [row for row in rows if row["id"] not in twice]
    # Of two tasks with one id, nobody can say which a placeholder means: both are refused.
    tasks = [_task(row, row["id"]) for row in _renumbered(unfold(copy.deepcopy(whole)), max(names, default=0))]
    free = max([*names, *(task.id for task in tasks)], default=0) + 1
    for row in rows:
        if row["id"] in twice:
            told = f"task {row['id']}: another task of the plan has the same id"
            tasks.append(_task(row | {"wrong": told}, free))
            free += 1
    return tuple(tasks)


def _renumbered(rows: list[dict[str, Any]], last: int) -> list[dict[str, Any]]:
    seen: set[int] = set()
    for row in rows:
        if row["id"] in seen:
            last += 1
            row["id"] = last
        seen.add(row["id"])
    return rows


def _task(row: Mapping[str, Any], id: int) -> Task:
    wrong = row["wrong"]
    try:
        dep = tuple(each for each in dependencies(row["args"]) if each != -1)
    except (IndexError, ValueError):
        dep, wrong = (), wrong or f"task {id}: a placeholder must be {GENERATED}-id, found {list(row['args'].values())}"
    return Task(id=id, task=row["task"], args=row["args"], dep=dep, wrong=wrong)


def resolved(
    task: Task, results: Mapping[int, Mapping[str, str]], given: Mapping[int, Mapping[str, str]]
) -> dict[str, str]:
    """The arguments with what earlier tasks made in place of placeholders.

    results: id -> {"generated image": name, ...}; given: id -> the arguments it ran with.  A task that made no such
    thing hands on its own argument of that kind, so that a question about what a detector saw is asked of its picture.
    What stays a placeholder is refused later.
    """
    args = dict(task.args)
    for kind in RESOURCES:
        value = args.get(kind, "")
        if f"{GENERATED}-" in value:
            made = results[int(value.split("-")[1])].get(f"generated {kind}")
            if made is not None:
                args[kind] = made
        if GENERATED in args.get(kind, ""):
            handed = [results[id].get(f"generated {kind}", given[id].get(kind)) for id in task.dep]
            last = next((each for each in reversed(handed) if each), None)
            args |= {kind: last} if last is not None else {}
    return args


def find_json(text: str) -> str:
    """From the first brace to the last, with double quotes and no line ends."""
    text = text.replace("'", '"')
    return text[text.find("{") : text.rfind("}") + 1].replace("\n", "")


def choice(output: str) -> tuple[str, str]:
    """(id, reason) of a model that a planner chose.  Raises PlanError."""
    try:
        found = json.loads(output)
        return found["id"], found["reason"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    text = find_json(output)
    values = [_field(text, name) for name in ("id", "reason")]
    if values[0] is None or values[1] is None:
        raise PlanError(f'expected {{"id": ..., "reason": ...}}, found {output.strip()[:200]!r}')
    return values[0].strip(), values[1].strip()


def _field(text: str, name: str) -> str | None:
    found = re.search(f'{name}.*?:.*?"(.*?)"', text, re.IGNORECASE) or re.search(
        rf'{name}:\ *"(.*?)"', text, re.IGNORECASE
    )
    return None if found is None else found[1].replace('"', "'")


def fill(text: str, slots: Mapping[str, Any]) -> str:
    """{{name}} replaced by a value without double quotes and line ends, so that it may stand in JSON."""
    for name, value in slots.items():
        text = text.replace("{{" + name + "}}", str(value).replace('"', "'").replace("\n", ""))
    return text


def whole_graph(tasks: Sequence[Task]) -> dict[int, tuple[int, ...]]:
    """id -> what it waits for."""
    return {task.id: task.dep for task in tasks}
