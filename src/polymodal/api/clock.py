"""Where the seconds of an answer go: decode, encode, prefill, generate.

Media are read, and encoders and connectors run, while the first token is waited for; what is measured inside a phase
is taken out of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from polymodal.data.processor import Encoded

T = TypeVar("T")


class Clock:
    """Adds up seconds under names; each second is counted once, under the innermost phase."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.seconds = {"decode": 0.0, "encode": 0.0, "prefill": 0.0, "generate": 0.0}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time a block under `name`, without what is measured inside it."""
        already, begin = sum(self.seconds.values()), time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            within = sum(self.seconds.values()) - already
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


class TimedProcessor:
    """A processor whose reading and preparing of media counts as "decode"; `row` is what it encoded last."""

    row: Encoded

    def __init__(self, processor: Any, clock: Clock) -> None:
        self._processor = processor
        self._clock = clock

    def encode(self, messages: Any, *, generate: bool = False, memo: Any = None) -> Encoded:
        """`Processor.encode` in its two steps; recordings that enter as their words are heard first: "encode".

        Once only: a conversation that was rewritten already need not be one that can be rewritten.
        """
        rewrite = getattr(self._processor, "rewrite", None)
        if rewrite is not None:
            with self._clock.measure("encode"):
                messages = rewrite(tuple(messages))
        with self._clock.measure("decode"):
            segments = self._processor.template.render(messages, ask=generate)
            self.row = self._processor.encode_segments(segments, memo=memo)
        return self.row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)
