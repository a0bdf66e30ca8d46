"""Vectors for many threads: one call for all that wait, each thread gets its rows, and its own mistakes alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from polymodal.engine.vectors import LIMIT, VectorQueue
from polymodal.errors import PromptError


class Embed:
    """Items are numbers; the first call waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, items):
        self.calls.append(list(items))
        assert self.go.wait(20)
        if -1 in items:
            raise PromptError("-1 is no item")
        return torch.tensor([[item, 2 * item] for item in items], dtype=torch.float32)


def together(asked: list[list[int]]) -> tuple[Embed, list]:
    """The rows of each, or its error, where the first goes ahead and the others wait meanwhile."""
    embed = Embed()
    queue = VectorQueue(embed)

    def ask(items):
        try:
            return queue(items)[:, 0].tolist()
        except PromptError as problem:
            return str(problem)

    with ThreadPoolExecutor(len(asked)) as pool:
        futures = []
        for number, items in enumerate(asked):
            futures.append(pool.submit(ask, items))
            end = time.monotonic() + 20
            while len(queue._waiting) < number or not embed.calls:  # they come in this order
                assert time.monotonic() < end
                time.sleep(0.001)
        embed.go.set()
        return embed, [future.result(20) for future in futures]


def test_what_waits_is_one_call() -> None:
    embed, found = together([[0], [1, 2], [3], [4, 5, 6]])
    assert found == [[0], [1, 2], [3], [4, 5, 6]]
    assert embed.calls == [[0], [1, 2, 3, 4, 5, 6]]


def test_a_mistake_is_of_its_own_request() -> None:
    embed, found = together([[0], [1], [-1], [2]])
    assert found == [[0], [1], "-1 is no item", [2]]
    assert embed.calls == [[0], [1, -1, 2], [1], [-1], [2]]


def test_a_call_has_at_most_so_many_items() -> None:
    many = [[k] * (LIMIT // 2 + 1) for k in range(1, 4)]
    embed, found = together([[0], *many, list(range(2 * LIMIT))])
    assert found == [[0], *many, list(range(2 * LIMIT))]
    assert [len(call) for call in embed.calls] == [1, *[LIMIT // 2 + 1] * 3, 2 * LIMIT]


def test_an_interrupt_frees_the_queue() -> None:
    calls = iter([KeyboardInterrupt, None])

    def embed(items):
        if (problem := next(calls)) is not None:
            raise problem
        return torch.zeros(len(items), 2)

    queue = VectorQueue(embed)
    with pytest.raises(KeyboardInterrupt):
        queue([1])
    assert queue([1]).shape == (1, 2)
