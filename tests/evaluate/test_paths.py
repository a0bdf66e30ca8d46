"""Walks against the evaluation of R2R and the code of nDTW, and against every alignment of short paths.

evaluate_paths.json: a random geometric graph of networkx and 14 shortest paths, each with one that was cut short or a
random walk from the same start; nDTW and sDTW by r4r's DTW class, the rest by R2R's formulas on its distances.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored, measured
from polymodal.evaluate.paths import NAVIGATION, NE, SDTW, SR, dtw, shortest_from

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_paths.json").read_text())
SAMPLES = [
    Scored(record={"path": case["path"], "graph": STORED["graph"]}, prediction=case["prediction"])
    for case in STORED["cases"]
]


@pytest.mark.parametrize("metric", NAVIGATION, ids=lambda metric: metric.name)
def test_equal_to_the_official_code(metric) -> None:
    expected = [case["expected"][metric.name] for case in STORED["cases"]]
    assert len({round(number, 6) for number in expected}) > 1
    assert metric.of(SAMPLES) == pytest.approx(expected, abs=1e-9)
    assert measured(metric, SAMPLES).value == pytest.approx(np.mean(expected))


def all_alignments(rows: int, columns: int) -> list[list[tuple[int, int]]]:
    if (rows, columns) == (1, 1):
        return [[(0, 0)]]
    before = [(rows - 1, columns), (rows, columns - 1), (rows - 1, columns - 1)]
    return [
        [*path, (rows - 1, columns - 1)] for size in before if min(size) > 0 for path in all_alignments(*size)
    ]  # fmt: skip


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_dtw_is_the_best_of_all_alignments(rows: int, columns: int, seed: int) -> None:
    distances = np.random.default_rng(seed).integers(0, 9, (rows, columns)).astype(float)
    best = min(sum(distances[step] for step in path) for path in all_alignments(rows, columns))
    assert dtw(distances) == best


def test_positions_are_compared_straight() -> None:
    path = [[0, 0, 0], [0, 4, 0], [3, 4, 0]]
    values = {}
    for name, prediction in (("there", path), ("stopped", path[:1]), ("beyond", [*path, [3, 7, 0]])):
        found = [metric.of([Scored(record={"path": path}, prediction=prediction)])[0] for metric in NAVIGATION]
        values[name] = dict(zip([metric.name for metric in NAVIGATION], found, strict=True))
    assert values["there"] == pytest.approx({"SR": 1, "SPL": 5 / 7, "NE": 0, "OSR": 1, "nDTW": 1, "sDTW": 1})
    stopped = {"SR": 0, "SPL": 0, "NE": 5, "OSR": 0, "nDTW": np.exp(-9 / 9), "sDTW": 0}
    assert values["stopped"] == pytest.approx(stopped)
    # exactly 3 m: R2R's code says no, r4r's says yes
    beyond = {"SR": 0, "SPL": 0, "NE": 3, "OSR": 1, "nDTW": np.exp(-3 / 9), "sDTW": np.exp(-3 / 9)}
    assert values["beyond"] == pytest.approx(beyond)


def test_the_shortest_way_is_found() -> None:
    graph = {"a": {"b": 5, "c": 1}, "c": {"b": 2}, "b": {}}
    assert shortest_from(graph, "a") == {"a": 0, "c": 1, "b": 3}
    found = shortest_from(STORED["graph"], "v0")
    assert all(found[b] <= found[a] + STORED["graph"][a][b] for a in found for b in STORED["graph"][a])
    assert all(len(set(step)) == 2 for case in STORED["cases"] for step in pairwise(case["path"]))


@pytest.mark.parametrize(
    ("record", "prediction", "message"),
    [
        ({"path": ["a", "b"]}, ["a"], "expected a field 'graph', found path"),
        ({"path": ["a", "b"], "graph": {"a": {}}}, ["a"], "graph: expected a way from 'a' to 'b', found none"),
        ({"path": ["a"], "graph": {"a": {"b": -1}}}, ["a"], "graph: expected metres from 'a' to 'b', found int -1"),
        ({"path": ["a"], "graph": [1]}, ["a"], "graph: expected .viewpoint: .neighbour: metres.., found list"),
        ({"path": ["a"], "graph": {}}, ["b"], "prediction: expected the path's start 'a' as its first step, found 'b'"),
        ({"path": ["a"], "graph": {}}, [], "prediction: expected a list of names of viewpoints"),
        ({"path": [[0, 0], [0, 1, 1]]}, [[0, 0]], "path: expected a list of names of viewpoints"),
        ({"path": [[0, 0]]}, [[0, 0], "b"], "prediction: expected a list of names"),
    ],
)
def test_mistakes_are_named(record: dict, prediction: list, message: str) -> None:
    for metric in (NE, SR, SDTW):
        with pytest.raises(ConfigError, match=message):
            metric.of([Scored(record=record, prediction=prediction)])
