"""Graphs of tasks: what is wrong is refused by name before anything runs, what is ready runs at once, in any order."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.agents.graph import run_graph, wrong_tasks
from polymodal.agents.record import Clock
from polymodal.agents.tools import ToolError


def test_a_missing_id_and_a_circle_are_named_and_the_rest_runs() -> None:
    graph = {0: (), 1: (9,), 2: (3,), 3: (4,), 4: (2,), 5: (1,), 6: (0,), 7: (7,), 8: (3,)}
    wrong = wrong_tasks(graph)
    assert wrong[1] == "task 1 needs task 9, which is not in the plan"
    assert wrong[2] == "tasks 2 -> 3 -> 4 -> 2 wait for each other in a circle"
    assert wrong[5] == "task 5 needs task 1, which was refused" and wrong[8] == "task 8 needs task 3, which was refused"
    assert wrong[7] == "tasks 7 -> 7 wait for each other in a circle" and set(wrong) == {1, 2, 3, 4, 5, 7, 8}
    found = run_graph(graph, lambda id: id * 10)
    assert {id: each.value for id, each in found.items() if not each.error} == {0: 0, 6: 60}
    assert list(found) == list(graph)


def test_tasks_that_are_ready_run_at_once() -> None:
    together = threading.Barrier(3, timeout=5)

    def work(id: int) -> int:
        if id < 3:
            together.wait()  # passes only while all three run
        return id

    found = run_graph({0: (), 1: (), 2: (), 3: (0, 1, 2)}, work, workers=3)
    assert [each.value for each in found.values()] == [0, 1, 2, 3]


def test_a_failure_takes_with_it_what_needs_it() -> None:
    def work(id: int) -> int:
        if id == 1:
            raise ToolError("task 1 is out of order")
        return id

    found = run_graph({0: (), 1: (0,), 2: (1,), 3: (2,), 4: (0,)}, work)
    assert found[1].error == "task 1 is out of order" and found[4].value == 4
    assert found[2].error == "not run: it needs task 1, which gave no result"
    assert found[3].error == "not run: it needs task 2, which gave no result"


def test_an_error_that_is_no_tool_s_comes_through_and_time_ends() -> None:
    def broken(id: int) -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        run_graph({0: ()}, broken)
    clock = Clock(0.01)
    time.sleep(0.02)
    assert run_graph({0: ()}, lambda id: id, clock=clock)[0].error == "not run: the time for an answer is over"


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 9), max_size=3), max_size=8))
def test_any_graph_ends_and_no_task_runs_before_its_needs(graph: dict[int, list[int]]) -> None:
    done: list[int] = []

    def work(id: int) -> int:
        assert all(need in done for need in graph[id])
        done.append(id)
        return id

    found = run_graph(graph, work, workers=2)
    assert set(found) == set(graph) and set(done) == {id for id, each in found.items() if not each.error}
    assert set(done) | set(wrong_tasks(graph)) == set(graph) and not set(done) & set(wrong_tasks(graph))
