"""T5's relative position bias (arXiv 1910.10683 section 2.1): one learned value per head and bucket of distances.

    distance = key - query -> bucket -> bias [1, H, T, S], added to the scores of EVERY layer of a stack

Half of the buckets hold one distance each, the others logarithmic ranges up to `max_distance`; larger distances share
the last bucket.  Bidirectional stacks use one half of the buckets for keys after the query.
Traps: a causal stack counts keys after the query as distance 0; distances are between columns, padding included.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RelativePositionsConfig:
    """`bidirectional`: keys after the query have separate buckets."""

    heads: int
    bidirectional: bool
    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        exact = self.buckets // (4 if self.bidirectional else 2)
        if exact < 1 or self.max_distance <= exact:
            raise ConfigError(
                f"relative positions: {self.buckets} buckets up to distance {self.max_distance} leave no logarithmic "
                "range; use more buckets or a larger distance"
            )

    def build(self) -> "RelativePositions":
        return RelativePositions(self)

    def bucket(self, distance: Tensor) -> Tensor:
        """int64 key minus query -> int64 bucket, any shape."""
        if self.bidirectional:
            count = self.buckets // 2
            offset, size = (distance > 0).long() * count, distance.abs()
        else:
            count = self.buckets
            offset, size = torch.zeros_like(distance), (-distance).clamp_min(0)
        exact = count // 2
        steps = torch.log(size.clamp_min(1).float() / exact) / math.log(self.max_distance / exact)
        large = (exact + (steps * (count - exact)).long()).clamp_max(count - 1)
        return offset + torch.where(size < exact, size, large)


class RelativePositions(nn.Module):
    """The table `weight [buckets, H]`; see the module docstring."""

    def __init__(self, config: RelativePositionsConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(config.buckets, config.heads) * 0.02)

    def forward(self, q_len: int, k_len: int) -> Tensor:
        """Bias `[1, H, q_len, k_len]`; the queries are the last `q_len` keys."""
        device = self.weight.device
        query = torch.arange(k_len - q_len, k_len, device=device)[:, None]
        distance = torch.arange(k_len, device=device)[None] - query
        return self.weight[self.config.bucket(distance)].permute(2, 0, 1)[None]
