"""Ferret's features of pictures and of regions in them (arXiv 2310.07704): a linear, and the spatial-aware sampler.

    picture   features [N, S, D] -> project -> [N, S, E]
    region    points [N, P, 2] -> features of the map there [N, P, D]
              -> per stage: `keep` points far from each other, each with its `near` nearest; what these differ by, mixed
                 with what it is itself, the largest (or the mean) of them -> [N, keep, D]
              -> flatten -> linear [N, D] -> linear [N, 1, E]

Traps: a region reads the features that are not projected; the official code reads the map at (y, x) for a point (x, y),
and so does this; the first of the points that are kept is the first that is given, which the official code draws.
"""

from dataclasses import dataclass, field
from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.connectors.linear import ConnectorConfig
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig


@dataclass(frozen=True, kw_only=True)
class RegionSamplerConfig:
    """`points` a region is given by; `stages`: (keep, near) of each.  project: of pictures."""

    points: int = 512
    stages: tuple[tuple[int, int], ...] = ((128, 24), (32, 24))
    pool: Literal["max", "mean"] = "max"
    project: ConnectorConfig = field(default_factory=lambda: MLPConnectorConfig(depth=1))

    def __post_init__(self) -> None:
        there = self.points
        for keep, near in self.stages:
            if not 1 <= keep <= there or not 1 <= near <= there:
                raise ConfigError(f"region sampler: a stage keeps {keep} points with {near} neighbours of {there}")
            there = keep
        if self.pool not in ("max", "mean"):
            raise ConfigError(f"region sampler: pool must be max or mean, found {self.pool!r}")

    def build(self, in_width: int, out_width: int) -> "RegionSampler":
        """Build the connector with fresh weights."""
        return RegionSampler(self, in_width, out_width)


class RegionSampler(nn.Module):
    """`[N, S, Din] -> [N, S, Dout]`; with points of a region of each, `[N, 1, Dout]`"""

    def __init__(self, config: RegionSamplerConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build(in_width, out_width)
        wide = in_width + 2
        self.difference = nn.ModuleList(Linear(wide, wide) for _ in config.stages)
        self.mix = nn.ModuleList(Linear(2 * wide, in_width) for _ in config.stages)
        self.norm = nn.ModuleList(LayerNormConfig(eps=1e-5).build(in_width) for _ in config.stages)
        self.flatten = Linear(config.stages[-1][0] * in_width, in_width)
        self.region = Linear(in_width, out_width)

    def forward(self, features: Tensor, points: Tensor | None = None) -> Tensor:
        """points: float [N, P, 2] in 0..1 of the picture, (x, y).  Raises PromptError for another number of them."""
        if points is None:
            return self.project(features)
        if points.shape != (len(features), self.config.points, 2):
            expected = [len(features), self.config.points, 2]
            raise PromptError(f"region points: expected {expected}, found {list(points.shape)}")
        side = isqrt(features.shape[1])
        maps = features.transpose(1, 2).unflatten(2, (side, side)).float()
        where = (2 * points.float() - 1).flip(2)[:, :, None]
        seen = F.grid_sample(maps, where, align_corners=True)[..., 0].transpose(1, 2).to(features.dtype)
        at = points.to(features.dtype)
        for index, (keep, near) in enumerate(self.config.stages):
            at, seen = self._stage(index, at, seen, keep, near)
        return self.region(self.flatten(seen.flatten(1)))[:, None]

    def _stage(self, index: int, at: Tensor, seen: Tensor, keep: int, near: int) -> tuple[Tensor, Tensor]:
        """Points [N, P, 2] and their features [N, P, D] -> those of `keep` points."""
        chosen = far_apart(at, keep)
        own_at, own = _take(at, chosen), _take(seen, chosen)
        distances = -2 * own_at @ at.transpose(1, 2) + own_at.square().sum(-1)[..., None] + at.square().sum(-1)[:, None]
        nearest = distances.topk(near, largest=False, sorted=False).indices
        local = torch.cat((_take(seen, nearest), _take(at, nearest)), -1)
        anchor = torch.cat((own, own_at), -1)[:, :, None]
        both = torch.cat((self.difference[index](local - anchor), anchor.expand_as(local)), -1)
        mixed = self.norm[index](self.mix[index](both).relu())
        return own_at, mixed.amax(2) if self.config.pool == "max" else mixed.mean(2)


def far_apart(points: Tensor, count: int) -> Tensor:
    """Indices int64 [N, count] of points [N, P, 2]: the first, then each time the one farthest from those chosen."""
    chosen = [torch.zeros(len(points), dtype=torch.int64, device=points.device)]
    distance = points.new_full(points.shape[:2], 1e10)
    for _ in range(count - 1):
        last = points.gather(1, chosen[-1][:, None, None].expand(-1, 1, 2))
        distance = torch.minimum(distance, (points - last).square().sum(-1))
        chosen.append(distance.argmax(-1))
    return torch.stack(chosen, 1)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values [N, P, C] at index [N, ...] -> [N, ..., C]."""
    rows = torch.arange(len(values), device=values.device).view(-1, *[1] * (index.dim() - 1))
    return values[rows, index]
