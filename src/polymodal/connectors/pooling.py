"""Connectors that shorten the sequence: mean pooling, grid pooling, attention pooling with learned queries.

Flow
    MeanPool       features [N, S, Din] -> mean over S -> [N, 1, Din] -> project -> [N, 1, Dout]
    GridPool       features as an h x w map, row-major -> average pooling to Q cells -> project
    AttentionPool  Q learned queries attend to the features (one cross-attention) -> project

Each ends in another connector, `project`, which maps to the width of the backbone.
Traps: GridPool needs the class token dropped; cells overlap if the sides do not divide (torch's adaptive pooling).
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.connectors.linear import ConnectorConfig, LinearConnectorConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.norm import NormConfig


@dataclass(frozen=True, kw_only=True)
class MeanPoolConfig:
    """One feature per item: the mean of all."""

    project: ConnectorConfig = field(default_factory=LinearConnectorConfig)

    def build(self, in_width: int, out_width: int) -> "MeanPool":
        """Build the connector with fresh weights."""
        return MeanPool(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in."""
        return self.project.tokens(1)


class MeanPool(nn.Module):
    """`[N, S, Din] -> [N, 1, Dout]`"""

    def __init__(self, config: MeanPoolConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build(in_width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Average float [N, S, Din] over S and project."""
        return self.project(features.mean(dim=1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class GridPoolConfig:
    """`grid`: (rows, columns) to pool to; `source`: (rows, columns) of the encoder's map, None: square."""

    grid: tuple[int, int]
    source: tuple[int, int] | None = None
    project: ConnectorConfig = field(default_factory=LinearConnectorConfig)

    def build(self, in_width: int, out_width: int) -> "GridPool":
        """Build the connector with fresh weights."""
        return GridPool(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in; raises ConfigError if they do not form a map."""
        self.source_grid(n_in)
        return self.project.tokens(self.grid[0] * self.grid[1])

    def source_grid(self, n_in: int) -> tuple[int, int]:
        """Rows and columns of a map of `n_in` features."""
        side = math.isqrt(n_in)
        source = self.source or (side, side)
        if source[0] * source[1] != n_in:
            raise ConfigError(
                f"grid pool: {n_in} features do not form a map of {source[0]} x {source[1]}; "
                "drop the class token, or set source=(rows, columns)"
            )
        return source


class GridPool(nn.Module):
    """`[N, S, Din] -> [N, rows * columns, Dout]`, row-major"""

    def __init__(self, config: GridPoolConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build(in_width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Average float [N, S, Din] over the cells of the grid and project."""
        maps = features.unflatten(1, self.config.source_grid(features.shape[1])).permute(0, 3, 1, 2)
        pooled = F.adaptive_avg_pool2d(maps, self.config.grid)
        return self.project(pooled.flatten(2).transpose(1, 2))


@dataclass(frozen=True, kw_only=True)
class AttentionPoolConfig:
    """`queries` learned vectors, one cross-attention with `heads` heads; `norm` is applied to the features."""

    queries: int
    heads: int
    bias: bool = True
    norm: NormConfig | None = None
    project: ConnectorConfig = field(default_factory=LinearConnectorConfig)

    def build(self, in_width: int, out_width: int) -> "AttentionPool":
        """Build the connector with fresh weights; the attention is as wide as the features."""
        return AttentionPool(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in."""
        return self.project.tokens(self.queries)


class AttentionPool(nn.Module):
    """`[N, S, Din] -> [N, queries, Dout]`"""

    def __init__(self, config: AttentionPoolConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.empty(config.queries, in_width))
        nn.init.normal_(self.queries, std=0.02)
        self.norm = None if config.norm is None else config.norm.build(in_width)
        self.attn = AttentionConfig(
            width=in_width,
            heads=config.heads,
            qkv_bias=config.bias,
            out_bias=config.bias,
            source_width=in_width,
        ).build()
        self.project = config.project.build(in_width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Cross-attend to float [N, S, Din] and project."""
        source = features if self.norm is None else self.norm(features)
        queries = self.queries.expand(features.shape[0], -1, -1)
        return self.project(self.attn(queries, source=source))
