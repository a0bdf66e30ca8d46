"""The processes of one run, started by torchrun: what they share and agree on.

    torchrun --nproc-per-node 2 -m polymodal train ...      RANK, WORLD_SIZE, LOCAL_RANK -> Ranks
    ranks.total(x), ranks.largest(n), ranks.gathered(value)      of all processes; collective: every process must call

One process is the same code with nothing to exchange.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """rank: which of `count` processes this one is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def gathered(self, value: Any) -> list[Any]:
        """The value of each process, in order; of what pickles."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def total(self, value: float) -> float:
        """The sum, added up in the order of the processes, equal on all of them."""
        return sum(self.gathered(value))

    def largest(self, value: int) -> int:
        """The largest."""
        return max(self.gathered(value))

    def agree(self, problem: Exception | None) -> None:
        """Raises the problem of the first process that has one, on every process: none waits for one that is gone."""
        for each in self.gathered(problem):
            if each is not None:
                raise each


ALONE = Ranks()


@contextmanager
def started() -> Iterator[Ranks]:
    """The processes that torchrun started, connected by NCCL on GPUs and by gloo on CPUs; `ALONE` without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    import torch.distributed as dist

    if dist.is_initialized():
        yield Ranks(rank=dist.get_rank(), count=dist.get_world_size())
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), count=count)
    finally:
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is shared out among the processes as one; any other as it is.  Collective."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; all of one that is not shared out."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def rows_of(tensor: Tensor) -> range | None:
    """Which rows this process holds of a tensor that is shared out; None for one that is whole on every process."""
    from torch.distributed.tensor import DTensor, Shard

    if not isinstance(tensor, DTensor) or all(each.is_replicate() for each in tensor.placements):
        return None
    if tensor.placements != (Shard(0),):
        raise ConfigError(f"expected tensors shared out by rows over one dimension, found {tensor.placements}")
    each = -(-len(tensor) // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * each, len(tensor))
    return range(start, start + len(tensor.to_local()))


def as_shared(part: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a tensor (`Parts.like`) as a tensor shared out as `like` is."""
    from torch.distributed.tensor import DTensor

    if rows_of(like) is None or not isinstance(like, DTensor):
        return part
    found: Tensor = DTensor.from_local(
        part.to(like.device), like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return found
