"""One modality of an any-to-any model (4M, arXiv 2312.06647): values to vectors for reading, hidden states to ids.

    ids [B, L] -> table             pixels [B, C, H, W] -> patches -> linear          vectors [B, L, E] -> linear
    places [B, L, D]: what stands for the place (sine and cosine, or learned) + one vector of the modality

Grids keep one place a token; a sequence counts only tokens that are given, so that what is read and what is written
each begin at place 0.  Traps: values and places are apart, because the reader's places are added once more to what the
writer sees; a sequence's table of sines holds 512 places whatever its longest is; the sines of a grid take the first
half of the width from i // height, which is the row of a square grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.nn.computed import computed_buffer

SINES = 512  # places of a sequence's table
Kind = Literal["pixels", "grid", "sequence", "vectors"]


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    """One modality.  kind: "pixels" and "vectors" are read alone, "grid" (ids of patches) and "sequence" written too.

    grid: rows and columns of patches.  patch: side of a patch of pixels.  channels: of pixels, or the width of vectors.
    longest: most tokens of a sequence.  learned: places are learned.
    """

    kind: Kind
    vocab_size: int = 0
    grid: tuple[int, int] = (1, 1)
    patch: int = 16
    channels: int = 3
    longest: int = 256
    learned: bool = False

    def __post_init__(self) -> None:
        if self.kind in ("grid", "sequence") and self.vocab_size < 1:
            raise ConfigError(f"modality of kind {self.kind}: vocab_size must be 1 or more, found {self.vocab_size}")
        if self.is_sequence and not self.learned and self.longest > SINES:
            raise ConfigError(f"modality of kind {self.kind}: longest is {self.longest}, its table holds {SINES}")

    @property
    def is_sequence(self) -> bool:
        return self.kind in ("sequence", "vectors")

    @property
    def writes(self) -> bool:
        """Whether it has ids, and so can be written."""
        return self.kind in ("grid", "sequence")

    @property
    def places(self) -> int:
        """Rows of the table of places."""
        if self.is_sequence:
            return self.longest if self.learned else SINES
        return self.grid[0] * self.grid[1]

    def table(self, width: int) -> Tensor:
        """Sines and cosines [1, places, width], for the caller to keep."""
        if self.is_sequence:
            return waves(torch.arange(SINES, dtype=torch.float32), width)[None]
        rows, columns = self.grid
        first, second = waves(torch.arange(columns).float(), width // 2), waves(torch.arange(rows).float(), width // 2)
        return torch.cat((first.repeat_interleave(rows, 0), second.repeat(columns, 1)), 1)[None]


def waves(places: Tensor, width: int) -> Tensor:
    """`[P] -> [P, width]`: sines of `width / 2` wave lengths, then cosines."""
    omega = torch.arange(width // 2, dtype=torch.float32) / (width // 2)
    angles = places[:, None] * (1.0 / (10000.0**omega))[None]
    return torch.cat((angles.sin(), angles.cos()), 1)


class Places(nn.Module):
    """`positions [1, P, D]`, computed or learned; what the reader and the writer of a modality each have."""

    positions: Tensor

    def __init__(self, config: ModalityConfig, width: int):
        super().__init__()
        self.config = config
        if config.learned:
            self.positions = nn.Parameter(torch.randn(1, config.places, width) * 0.02)
        else:
            computed_buffer(self, "positions", lambda: config.table(width))

    def forward(self, kept: Tensor) -> Tensor:
        """kept: bool [B, L], which tokens are given -> [B or 1, L, D]."""
        if not self.config.is_sequence:
            return self.positions
        count = (kept.long().cumsum(1) - 1) * kept
        return self.positions[0][count.clamp_max(self.config.places - 1)] * kept[..., None]


class InputEmbedding(Places):
    """Values of a modality as the reader takes them; `modality [1, 1, D]` is added to its places."""

    def __init__(self, config: ModalityConfig, width: int):
        super().__init__(config, width)
        self.modality = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.tokens = table_of(config, width) if config.writes else None
        channels = config.channels * config.patch**2 if config.kind == "pixels" else config.channels
        self.proj = None if config.writes else nn.Linear(channels, width, bias=config.kind == "vectors")

    def values(self, given: Tensor, name: str) -> Tensor:
        """`[B, L, D]`.  Raises PromptError, naming the modality, for another shape or an id that is not there."""
        config = self.config
        if self.tokens is not None:
            return self.tokens(checked_ids(given, config, name))
        assert self.proj is not None
        if config.kind == "vectors":
            if given.dim() != 3 or given.shape[2] != config.channels:
                raise PromptError(f"{name}: expected [B, L, {config.channels}], found {list(given.shape)}")
            return self.proj(given)
        sides = tuple(config.patch * side for side in config.grid)
        if given.dim() != 4 or tuple(given.shape[1:]) != (config.channels, *sides):
            raise PromptError(f"{name}: expected [B, {config.channels}, {sides[0]}, {sides[1]}], found "
                              f"{list(given.shape)}")  # fmt: skip
        # Pixels of a patch lie row by row, the channels of one pixel side by side.
        patches = given.unflatten(2, (-1, config.patch)).unflatten(4, (-1, config.patch))
        return self.proj(patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))


class TargetEmbedding(Places):
    """Ids of a modality as the writer takes them, and the ids that it says."""

    def __init__(self, config: ModalityConfig, width: int):
        super().__init__(config, width)
        self.tokens = table_of(config, width)
        self.head = nn.Linear(width, config.vocab_size, bias=False)

    def forward(self, kept: Tensor) -> Tensor:
        """As for reading; tokens beyond the longest have the first place, as published."""
        if not self.config.is_sequence:
            return self.positions
        count = kept.long().cumsum(1) - 1
        return self.positions[0][torch.where(kept & (count < self.config.longest), count, 0)] * kept[..., None]


def table_of(config: ModalityConfig, width: int) -> nn.Embedding:
    """Vectors of ids; of a sequence id 0 fills up and learns nothing."""
    return nn.Embedding(config.vocab_size, width, padding_idx=0 if config.kind == "sequence" else None)


def checked_ids(given: Tensor, config: ModalityConfig, name: str) -> Tensor:
    """Ids [B, L], a grid given as rows and columns too.  Raises PromptError for ids or a number that cannot be."""
    if given.is_floating_point():
        raise PromptError(f"{name}: expected whole numbers (ids), found {given.dtype}")
    ids = given.flatten(1).long()
    if config.kind == "grid" and ids.shape[1] != config.places:
        rows, columns = config.grid
        raise PromptError(f"{name}: expected {rows} x {columns} = {config.places} ids, found {ids.shape[1]}")
    if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= config.vocab_size:
            raise PromptError(f"{name}: ids lie in 0 .. {config.vocab_size - 1}, found {low if low < 0 else high}")
    return ids
