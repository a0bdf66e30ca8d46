"""Which share of the machine's matrix products a run reaches.

    operations of a step (counted every 100 steps, in between scaled by its tokens) / its seconds /
    operations a second of a large matrix product at the precision of the run

The same steps are counted whether or not a run was stopped in between, so that a run that goes on stays equal bit for
bit.  Traps: products of matrices (of oneDNN's linears too, which torch leaves out), convolutions and those kernels of
attention that torch counts; a step's seconds also hold the reading of its data.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from polymodal.nn.linear import ONEDNN

EVERY = 100
SIZE = 1024


def best_rate(work: float, run: Callable[[], Any], seconds: float = 0.7) -> float:
    """`work` units per second in the fastest repetition of those that fit into `seconds`, after a warm-up."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return work / best


def matmul_rate(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seconds: float = 0.7) -> float:
    """Operations a second of a square matrix product of 1024 (of 8192 on an accelerator)."""
    on_cpu = torch.device(device).type == "cpu"
    size = SIZE if on_cpu else 8 * SIZE
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        left @ right
        if not on_cpu:
            torch.accelerator.synchronize()

    return best_rate(2 * size**3, product, seconds)


@functools.cache
def rate_of(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """`matmul_rate`, measured once in a process for each number of threads."""
    return matmul_rate(device, dtype, seconds=0.3)


class WholeModel(contextlib.nullcontext[None]):
    """In place of torch's record of which module is at work, whose hooks refuse what runs without gradients (MESM)."""

    parents = frozenset({"Global"})


def products(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of x [N, in] @ weight [out, in].T, of their shapes."""
    return 2 * math.prod(x) * weight[0]


def counter() -> FlopCounterMode:
    """Of all operations together, not by module."""
    made = FlopCounterMode(display=False, custom_mapping={} if ONEDNN is None else {ONEDNN.overloadpacket: products})
    made.mod_tracker = WholeModel()  # type: ignore[assignment]
    return made


class Utilisation:
    """Of one run.  rate: operations a second that the machine can do; None counts nothing.

    counted: operations of a step and its tokens, from the log of a run that goes on.
    """

    def __init__(self, rate: float | None, counted: tuple[float, int] | None = None) -> None:
        self.rate, self.counted = rate, counted
        self._now: FlopCounterMode | None = None

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a training step."""
        count = self.rate is not None and number % EVERY == 0
        self._now = counter() if count else None
        with self._now or contextlib.nullcontext():
            yield

    def numbers(self, line: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Its seconds; "operations" of a step where they were counted, else its "limit", a share of 1."""
        tokens = int(line.get("tokens", 0))
        if self._now is not None:
            operations = float(self._now.get_total_flops())
            self.counted = (operations, tokens)
            return {"seconds": seconds, "operations": operations}  # counting takes time itself
        if self.counted is None or self.rate is None:
            return {"seconds": seconds}
        operations, of = self.counted
        scaled = operations * tokens / of if of and tokens else operations
        return {"seconds": seconds, "limit": scaled / seconds / self.rate}


def counted_before(lines: list[Mapping[str, Any]]) -> tuple[float, int] | None:
    """Operations and tokens of the newest step in a log that was counted."""
    return next(
        ((line["operations"], int(line.get("tokens", 0))) for line in reversed(lines) if "operations" in line), None
    )
