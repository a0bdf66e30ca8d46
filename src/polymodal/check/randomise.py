"""Random weights that are the same numbers on every machine, made from a tensor's name and shape alone.

    name -> CRC-32 -> start of a splitmix64 counter -> float64 uniform in [-1, 1) -> scaled by the tensor's role

So an oracle that runs elsewhere (official code, another library, another year) and our module get equal weights with
nothing stored but names and shapes.  Every parameter is random: biases, norms and gates too, since zeros and ones
hide mistakes.  The scale keeps activations near one: matrices by their fan-in, norm weights around one.
Source of the mixing constants: SplitMix64, Steele et al., OOPSLA 2014 (public domain).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniform(name: str, count: int, seed: int = 0) -> np.ndarray:
    """float64 `[count]` in [-1, 1), a function of `name`, `seed` and the position alone."""
    start = np.uint64(zlib.crc32(f"{seed}:{name}".encode())) << np.uint64(32)
    with np.errstate(over="ignore"):
        z = start + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX[0]
        z = (z ^ (z >> np.uint64(27))) * _MIX[1]
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0


def tensor(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """float32 weights for a parameter or buffer of this name.

    Two and more dimensions: uniform with variance 1 / fan-in.  Fewer: uniform in +-0.4, around 1 for a `weight`,
    `gamma` or `scale`; running variances lie in 0.5..1.5; the count of batches of a batch norm is int64 zero.
    """
    values = uniform(name, math.prod(shape), seed).reshape(tuple(shape))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(tuple(shape), dtype=torch.int64)
    if leaf == "running_var":
        values = 1.0 + 0.5 * values
    elif len(shape) >= 2:
        values = values * math.sqrt(3.0 / max(1, math.prod(shape[1:])))
    else:
        centre = 1.0 if leaf in ("weight", "gamma", "scale") else 0.0
        values = centre + 0.4 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def ids(name: str, shape: Sequence[int], low: int, high: int, seed: int = 0) -> Tensor:
    """int64 in [low, high): token ids and labels for a case."""
    values = (uniform(name, math.prod(shape), seed) + 1.0) / 2.0
    return torch.from_numpy((low + np.floor(values * (high - low))).astype(np.int64)).reshape(tuple(shape))


def values(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """float32 in [-1.7, 1.7), variance 1: pixels, samples and features for a case."""
    return torch.from_numpy((uniform(name, math.prod(shape), seed) * math.sqrt(3.0)).astype(np.float32)).reshape(
        tuple(shape)
    )


def state(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Tensor]:
    """Weights for a whole list of names and shapes."""
    return {name: tensor(name, shape, seed) for name, shape in shapes.items()}


@torch.no_grad()
def fill(module: nn.Module, seed: int = 0) -> None:
    """Overwrite every floating parameter and stored floating buffer of a module, tied ones once (first name wins)."""
    done: set[int] = set()
    for name, weight in module.state_dict(keep_vars=True).items():
        if weight.is_floating_point() and id(weight) not in done:
            weight.copy_(tensor(name, weight.shape, seed).to(weight.dtype))
            done.add(id(weight))
