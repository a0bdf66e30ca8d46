"""Where the seconds of an answer go: decode, encode, prefill, generate.

Encoders and connectors run inside the assembly's prefill; hooks put on for that moment take their time out of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Clock:
    """Adds up seconds under names; "encode" is taken out of the phase it happens in."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.seconds = {"decode": 0.0, "encode": 0.0, "prefill": 0.0, "generate": 0.0}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time a block under `name`, without what was encoded meanwhile."""
        encoded, begin = self.seconds["encode"], time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            within = self.seconds["encode"] - encoded
            self.seconds[name] += time.perf_counter() - begin - within

    def next(self, name: str, items: Iterator[T]) -> T | None:
        """The next item, its making timed; None at the end.  What the reader does in between is not counted."""
        with self.measure(name):
            return next(items, None)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """While inside, calls of the assembly's encoders and connectors count as "encode"."""
        groups = [getattr(self._module, name, {}) for name in ("encoders", "connectors")]
        begun: list[float] = []

        def before(*_: Any) -> None:
            self._synchronise()
            begun.append(time.perf_counter())

        def after(*_: Any) -> None:
            self._synchronise()
            self.seconds["encode"] += time.perf_counter() - begun.pop()

        hooks = [
            hook
            for group in groups
            for part in group.values()
            for hook in (part.register_forward_pre_hook(before), part.register_forward_hook(after))
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _synchronise(self) -> None:
        """A GPU works on after the call returns; wait, so that the time lands where it belongs."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
