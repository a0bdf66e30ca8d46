"""Walking by instructions (R2R, RxR, REVERIE): success, path length, distance to the goal, agreement with the path.

A row has `path`, people's path as names of viewpoints, and `graph`, {viewpoint: {neighbour: metres}}; a prediction is
the names of the viewpoints that were visited, the start first.  Or both are positions in metres, [x, y, z], without a
graph: distances are then straight.  Distances over a graph are the shortest.
    NE     metres from the last viewpoint to the goal; lower is better
    SR     share with NE < 3; OSR: share that came within 3 m of the goal anywhere (Anderson et al. 2018, 1711.07280)
    SPL    SR * shortest / max(walked, shortest) (1807.06757); 0 where start and goal are one, as the usual code has it
    nDTW   exp(-DTW / (3 |path|)), DTW the least sum of distances of aligned steps (1907.05446)
    sDTW   nDTW where NE <= 3, else 0: as its own code has it, at exactly 3 m it differs from SR
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, is_number
from polymodal.fields import shown

REACHED = 3.0
# The usual code's guard against paths without a length.
LEAST = 0.01
Graph = Mapping[Any, Mapping[Any, float]]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """distances [visited, path] in metres; walked and shortest (from start to goal), in metres."""

    distances: np.ndarray
    walked: float
    shortest: float

    @property
    def error(self) -> float:
        return float(self.distances[-1, -1])

    @property
    def reached(self) -> bool:
        return self.error < REACHED


def shortest_from(graph: Graph, start: Hashable) -> dict[Any, float]:
    """Metres from `start` to every viewpoint that can be reached (Dijkstra); an edge leads the way it is listed."""
    found: dict[Any, float] = {}
    queue: list[tuple[float, int, Any]] = [(0.0, 0, start)]
    pushed = 0
    while queue:
        metres, _, here = heapq.heappop(queue)
        if here in found:
            continue
        found[here] = metres
        for neighbour, length in graph.get(here, {}).items():
            if not is_number(length) or length < 0:
                raise ConfigError(f"graph: expected metres from {here!r} to {neighbour!r}, found {shown(length)}")
            pushed += 1
            heapq.heappush(queue, (metres + length, pushed, neighbour))
    return found


def dtw(distances: np.ndarray) -> float:
    """The least sum of distances [P, R] along a monotone alignment of two paths from both starts to both ends."""
    above = np.full(distances.shape[1] + 1, np.inf)
    above[0] = 0
    for row in distances:
        here = np.full_like(above, np.inf)
        for j, distance in enumerate(row, start=1):
            here[j] = distance + min(above[j], here[j - 1], above[j - 1])
        above = here
    return float(above[-1])


def walk(sample: Scored) -> Walk:
    """What the metrics need of a sample.  Raises ConfigError for paths that do not fit the graph or each other."""
    path, visited = marked_path(sample.record), _steps(sample.prediction, "prediction")
    if visited[0] != path[0]:
        raise ConfigError(f"prediction: expected the path's start {path[0]!r} as its first step, found {visited[0]!r}")
    between = _between(sample.record, [*path, *visited])
    return Walk(
        distances=np.array([[between(a, b) for b in path] for a in visited], np.float64),
        walked=sum(between(a, b) for a, b in pairwise(visited)),
        shortest=between(path[0], path[-1]),
    )


def walks(samples: Sequence[Scored]) -> list[Walk]:
    """The walk of each sample."""
    return [walk(sample) for sample in samples]


def marked_path(record: Mapping[str, Any]) -> list[Any]:
    """The way that people marked: names of viewpoints, which need a graph, or positions."""
    steps = _steps(given(record, "path"), "path")
    if isinstance(steps[0], str):
        given(record, "graph")
    return steps


def spl(one: Walk) -> float:
    """Success weighted by path length."""
    return one.reached * one.shortest / max(one.walked, one.shortest, LEAST)


def ndtw(one: Walk) -> float:
    """Normalised dynamic time warping, 0 to 1."""
    return math.exp(-dtw(one.distances) / (REACHED * one.distances.shape[1]))


def _steps(value: Any, what: str) -> list[Any]:
    steps = list(value) if isinstance(value, list | tuple) else []
    named = all(isinstance(step, str) for step in steps)
    placed = all(isinstance(step, list | tuple) and 0 < len(step) <= 3 and all(map(is_number, step)) for step in steps)
    if not steps or not (named or (placed and len({len(step) for step in steps}) == 1)):
        raise ConfigError(
            f"{what}: expected a list of names of viewpoints, or of positions [x, y, z], found {shown(value)}"
        )
    return steps if named else [tuple(step) for step in steps]


def _between(record: Mapping[str, Any], steps: Sequence[Any]) -> Callable[[Any, Any], float]:
    if len({len(step) if isinstance(step, tuple) else 0 for step in steps}) > 1:
        raise ConfigError("prediction: expected steps as the path has, names or positions with as many numbers")
    if isinstance(steps[0], tuple):
        return math.dist
    graph = given(record, "graph")
    if not isinstance(graph, Mapping) or not all(isinstance(edges, Mapping) for edges in graph.values()):
        raise ConfigError(f"graph: expected {{viewpoint: {{neighbour: metres}}}}, found {shown(graph)}")
    tables = {step: shortest_from(graph, step) for step in set(steps)}

    def between(one: str, other: str) -> float:
        if other not in tables[one]:
            raise ConfigError(f"graph: expected a way from {one!r} to {other!r}, found none; add the edges between")
        return tables[one][other]

    return between


def _metric(name: str, score: Callable[[Walk], float], best: str = "high") -> Metric:
    def rows(found: Sequence[Walk]) -> np.ndarray:
        return np.array([score(one) for one in found], np.float64)

    return Metric(name=name, read=walks, rows=rows, best=best, asks=marked_path)


NE = _metric("NE", lambda one: one.error, best="low")
SR = _metric("SR", lambda one: one.reached)
OSR = _metric("OSR", lambda one: bool((one.distances[:, -1] < REACHED).any()))
SPL = _metric("SPL", spl)
NDTW = _metric("nDTW", ndtw)
SDTW = _metric("sDTW", lambda one: (one.error <= REACHED) * ndtw(one))
NAVIGATION = (SR, SPL, NE, OSR, NDTW, SDTW)
