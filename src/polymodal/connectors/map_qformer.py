"""A Q-Former for the tokens of a picture that hands its feature maps on, for MM-Interleaved (arXiv 2401.10208).

    tokens [N, 1 + g * g, D'] -> linear -> norm -> + positions -> norm -> Q-Former (queries and keys normed) -> linear
        -> [N, Q, D]
    maps [N, D', s, s] of some sides -> + the same positions, resized -> rows one behind the other [N, S, D']
    both -> `packed`: one tensor [N, Q + R, D], the maps in as many rows of width D as they fill

One tensor, because that is what is kept of an item between the turns of a conversation; `maps_of` takes them out.
Trap: the class token has a position of zeros, which is stored like the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.connectors import qformer
from polymodal.connectors.qformer import QFormerConfig
from polymodal.nn.grid_table import resized, sines_2d
from polymodal.nn.norm import LayerNorm
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class MapQFormerConfig:
    """grid: patches a side that the positions are of.  sides: of the maps that are handed on."""

    qformer: QFormerConfig
    out_width: int
    grid: int
    sides: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows that the maps fill."""
        return math.ceil(sum(side * side for side in self.sides) * self.qformer.source_width / self.out_width)

    def build(self) -> MapQFormer:
        return MapQFormer(self)


class MapQFormer(nn.Module):
    """See the module docstring."""

    def __init__(self, config: MapQFormerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.qformer.source_width
        self.inlet = nn.Linear(width, width)
        self.inlet_norm = LayerNorm(width, eps=1e-6)
        columns, rows = sines_2d(config.grid, width).chunk(2, -1)
        table = torch.cat((torch.zeros(1, width), torch.cat((rows, columns), -1)))
        self.positions = nn.Parameter(table, requires_grad=False)
        self.norm = LayerNorm(width, eps=1e-6)
        self.qformer = config.qformer.build()
        self.proj = nn.Linear(config.qformer.width, config.out_width)
        nn.init.normal_(self.proj.weight, std=1e-3)
        nn.init.zeros_(self.proj.bias)

    def forward(self, found: tuple[Tensor, tuple[Tensor, ...]]) -> Tensor:
        """found: tokens and maps, as of `encoders/vit_adapter.py`."""
        features, every = found
        x = self.norm(self.inlet_norm(self.inlet(features)) + self.positions)
        tokens = self.proj(self.qformer(x))
        maps = [self._placed(each) for each in every if each.shape[-1] in self.config.sides]
        flat = torch.cat(maps, 1).flatten(1)
        filled = F.pad(flat, (0, self.config.rows * self.config.out_width - flat.shape[1]))
        return torch.cat((tokens, filled.unflatten(1, (self.config.rows, -1))), 1)

    def _placed(self, map_: Tensor) -> Tensor:
        side, grid = map_.shape[-1], (self.config.grid, self.config.grid)
        return map_.flatten(2).transpose(1, 2) + resized(self.positions[1:], grid, (side, side))


def maps_of(packed: Tensor, queries: int, sides: tuple[int, ...], width: int) -> Tensor:
    """The maps of an item [Q + R, D] as rows [S, D']."""
    length = sum(side * side for side in sides)
    return packed[queries:].flatten()[: length * width].view(length, width)


def official_keys(config: QFormerConfig) -> KeyTable:
    """Official names below `visual_tokenizer.` -> ours."""
    names = {"pos_proj": "inlet", "pos_ln": "inlet_norm", "post_ln": "norm", "proj": "proj"}
    own = [
        rename(f"{theirs}.{leaf}", f"{ours}.{leaf}") for theirs, ours in names.items() for leaf in ("weight", "bias")
    ]
    return KeyTable((rename("pos_embed", "positions"), *own)) + resampler_keys(config).prefixed(
        "perceiver_resampler.", "qformer."
    )


def resampler_keys(config: QFormerConfig) -> KeyTable:
    """Names of the official PerceiverResampler: queries [1, Q, D] and a Q-Former with the hub's names."""
    inner = qformer.hf_keys(config).prefixed("blip2qformer.", "")
    return KeyTable((rename("queries", "queries", Squeeze(0)),)) + inner
