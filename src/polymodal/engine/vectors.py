"""Vectors for many who ask at once: what waits is computed together, by whoever waits.

    thread A  embed([text])      ---+
    thread B  embed([picture])   ---+--> one call for all items that wait, at most `LIMIT` --> each gets its rows
    thread C  embed([text, text])---+

While one call runs the next one gathers.  A mistake in one request is that request's alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LIMIT = 64  # items that are computed together; one request with more is a call of its own


@dataclass(eq=False)
class _Asked:
    items: Sequence[Any]
    found: Tensor | BaseException | None = None


class VectorQueue:
    """embed: items -> [N, D], for one thread at a time, as `Model.embed`; it may raise."""

    def __init__(self, embed: Callable[[Sequence[Any]], Tensor]) -> None:
        self._embed = embed
        self._waiting: list[_Asked] = []
        self._news = threading.Condition()
        self._busy = False

    def __call__(self, items: Sequence[Any]) -> Tensor:
        """The rows of these items; for any number of threads.  Raises what `embed` does."""
        asked = _Asked(items)
        with self._news:
            self._waiting.append(asked)
        while True:
            with self._news:
                self._news.wait_for(lambda: asked.found is not None or not self._busy)
                if asked.found is not None:
                    break
                some, self._busy = self._take(), True
            try:
                self._compute(some)
            finally:
                with self._news:
                    self._busy = False
                    self._news.notify_all()
        if isinstance(asked.found, BaseException):
            raise asked.found
        return asked.found

    def _take(self) -> list[_Asked]:
        """Those that wait longest."""
        count, total = 0, 0
        for each in self._waiting:
            total += len(each.items)
            if count and total > LIMIT:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _compute(self, some: Sequence[_Asked]) -> None:
        try:
            rows = self._embed([item for each in some for item in each.items])
            parts = rows.split([len(each.items) for each in some])
            for each, part in zip(some, parts, strict=True):
                each.found = part if len(some) == 1 else torch.clone(part)  # not the memory of all
        except Exception as problem:
            if len(some) == 1:
                some[0].found = problem
                return
            for each in some:
                self._compute([each])
        except BaseException as problem:  # an interrupt ends what it met
            for each in some:
                each.found = problem
            raise
