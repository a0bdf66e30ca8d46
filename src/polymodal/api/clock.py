"""Where the seconds of an answer go: decode, encode, prefill, generate.

Media are read, and encoders and connectors run, while the first token is waited for; what is measured inside a phase
is taken out of it.  Nothing is hooked onto the model: whoever runs an encoder gets `measure`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Clock:
    """Adds up seconds under names; each second is counted once, under the innermost phase.  device: the model's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = {"decode": 0.0, "encode": 0.0, "prefill": 0.0, "generate": 0.0}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time a block under `name`, without what is measured inside it."""
        already, begin = sum(self.seconds.values()), time.perf_counter()
        try:
            yield
        finally:
            if name == "encode":
                self._synchronise()
            within = sum(self.seconds.values()) - already
            self.seconds[name] += time.perf_counter() - begin - within

    def next(self, name: str, items: Iterator[T]) -> T | None:
        """The next item, its making timed; None at the end.  What the reader does in between is not counted."""
        with self.measure(name):
            return next(items, None)

    def _synchronise(self) -> None:
        """An accelerator works on after the call returns; wait, so that the time lands where it belongs.

        Encoders only: the end of every other phase is a token that has been read.
        """
        import torch

        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
