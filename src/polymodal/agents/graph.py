"""Tasks that wait for each other: a graph is checked before anything runs, then whatever is ready runs at once.

    run_graph({0: (), 1: (0,), 2: (0,)}, work, workers=4) -> {0: Outcome, 1: Outcome, 2: Outcome}

A task whose graph is wrong (it waits for an id that is not there, for itself or in a circle) is refused by name, and
with it what waits for it; all others run.  A task that fails takes with it only those that need its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from polymodal.agents.record import Clock
from polymodal.agents.tools import ToolError

Graph = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class Outcome:
    """value, or the error in its place."""

    value: Any = None
    error: str = ""


def wrong_tasks(graph: Graph) -> dict[int, str]:
    """id -> what is wrong with its place in the graph: a missing id, a circle, or one of these before it."""
    wrong: dict[int, str] = {}
    for id, needs in graph.items():
        if missing := [need for need in needs if need not in graph]:
            wrong[id] = f"task {id} needs task {missing[0]}, which is not in the plan"
    left = {id: [need for need in needs if need in graph] for id, needs in graph.items()}
    while ready := [id for id, needs in left.items() if not any(need in left for need in needs)]:
        for id in ready:
            del left[id]
    for id in left:
        if (circle := _circle(graph, id)) and id not in wrong:
            wrong[id] = f"tasks {' -> '.join(map(str, circle))} wait for each other in a circle"
    changed = True
    while changed:
        late = {id: next(need for need in needs if need in wrong)
                for id, needs in graph.items() if id not in wrong and any(need in wrong for need in needs)}  # fmt: skip
        changed = bool(late)
        wrong |= {id: f"task {id} needs task {need}, which was refused" for id, need in late.items()}
    return wrong


def _circle(graph: Graph, start: int) -> list[int]:
    """The way from a task back to itself, [] where there is none."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop()
        for need in graph.get(way[-1], ()):
            if need == start:
                return [*way, start]
            if need not in seen:
                seen.add(need)
                ways.append([*way, need])
    return []


def run_graph(
    graph: Graph, work: Callable[[int], Any], *, workers: int = 4, clock: Clock | None = None
) -> dict[int, Outcome]:
    """Every task's outcome, in the order of the graph.  work(id) may raise ToolError; its needs are done by then."""
    done: dict[int, Outcome] = {id: Outcome(error=why) for id, why in wrong_tasks(graph).items()}
    waiting = [id for id in graph if id not in done]
    running: dict[Future[Any], int] = {}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        while waiting or running:
            for id in list(waiting):
                failed = [need for need in graph[id] if need in done and done[need].error]
                if failed:
                    done[id] = Outcome(error=f"not run: it needs task {failed[0]}, which gave no result")
                elif clock is not None and clock.over:
                    done[id] = Outcome(error="not run: the time for an answer is over")
                elif all(need in done for need in graph[id]):
                    running[pool.submit(work, id)] = id
                else:
                    continue
                waiting.remove(id)
            if running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for each in finished:
                    done[running.pop(each)] = _outcome(each)
    return {id: done[id] for id in graph}


def _outcome(future: Future[Any]) -> Outcome:
    try:
        return Outcome(value=future.result())
    except ToolError as problem:
        return Outcome(error=str(problem))
