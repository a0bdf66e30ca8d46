"""HTS-AT, the sound encoder of CLAP (arXiv 2202.00874, 2211.06687): a Swin transformer over a folded spectrogram.

    log-mel [N, T, mels] -> batch norm of each mel -> stretched to 4 * side frames -> folded into a square [side, side]
    -> patches of 4 x 4 -> levels of windows of 8 x 8 (every second block shifted by 4), each halved to twice the width
    -> norm -> mean over all places [N, D] -> projection of two linears -> [N, E]

Names of configs are those of transformers' ClapAudioConfig.
Traps: time is cut into 4 pieces that lie below each other, so the first axis is not frequency alone; windows are not
shifted where the grid is no larger than one; in a shifted window places of two sides get -100, not nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.computed import computed_buffer
from polymodal.nn.mlp import MLPConfig
from polymodal.weights.keytable import KeyTable, Row, drop, pair, rename, split


@dataclass(frozen=True, kw_only=True)
class HTSATConfig:
    """depths, heads: of each level; width: of the first.  side: of the folded square.  out_width: of the projection."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    out_width: int
    window: int = 8
    side: int = 256
    mels: int = 64
    patch: int = 4

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.heads) or not self.depths or self.side % self.mels:
            raise ConfigError(f"htsat: expected as many depths as heads, found {self.depths} and {self.heads}, and a "
                              f"side that is a multiple of {self.mels} mels, found {self.side}")  # fmt: skip

    @property
    def last_width(self) -> int:
        return self.width << len(self.depths) - 1

    @property
    def most_frames(self) -> int:
        """Frames of a spectrogram at most."""
        return self.side * (self.side // self.mels)

    def build(self) -> HTSAT:
        return HTSAT(self)


class WindowAttention(nn.Module):
    """Attention inside windows of a grid `[N, H, W, D]`, rolled by `shift`."""

    places: Tensor
    border: Tensor

    def __init__(self, width: int, heads: int, window: int, shift: int, side: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        computed_buffer(self, "places", lambda: distances(window), persistent=False)
        if shift:
            computed_buffer(self, "border", lambda: borders(side, window, shift), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        count, side, size = x.shape[0], x.shape[1], self.window
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        tiles = side // size
        x = x.reshape(count, tiles, size, tiles, size, -1).transpose(2, 3).reshape(count, tiles**2, size**2, -1)
        q, k, v = (each(x).unflatten(-1, (self.heads, -1)).transpose(2, 3)
                   for each in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        mask = self.bias[self.places].movedim(-1, 0)[None]
        if self.shift:
            mask = mask + self.border[:, None].to(mask.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None].to(q.dtype))
        x = self.o_proj(x.transpose(2, 3).flatten(3)).reshape(count, tiles, tiles, size, size, -1)
        x = x.transpose(2, 3).reshape(count, side, side, -1)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


def distances(window: int) -> Tensor:
    """Which row of the table of biases two places of a window have, int64 [w*w, w*w]."""
    rows = torch.arange(window)
    grid = torch.stack(torch.meshgrid(rows, rows, indexing="ij")).flatten(1)
    far = grid[:, :, None] - grid[:, None] + window - 1
    return far[0] * (2 * window - 1) + far[1]


def borders(side: int, window: int, shift: int) -> Tensor:
    """-100 between places of a shifted window that were not neighbours, float32 [windows, w*w, w*w]."""
    part = torch.zeros(side)
    part[-window:-shift], part[-shift:] = 1, 2
    grid = (part[:, None] * 3 + part).reshape(side // window, window, -1, window)
    kinds = grid.transpose(1, 2).reshape(-1, window**2)
    return (kinds[:, None] != kinds[:, :, None]).float() * -100


class SwinBlock(nn.Module):
    """`[N, H, W, D] -> [N, H, W, D]`"""

    def __init__(self, width: int, heads: int, window: int, shift: int, side: int) -> None:
        super().__init__()
        if side <= window:
            window, shift = side, 0
        self.attn_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, shift, side)
        self.mlp = MLPConfig(width=width, ffn_width=4 * width).build()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class SwinLevel(nn.Module):
    """Blocks of one resolution, then four places become one of twice the width (not behind the last)."""

    def __init__(self, config: HTSATConfig, level: int) -> None:
        super().__init__()
        width, side = config.width << level, config.side // config.patch >> level
        self.blocks = nn.ModuleList(
            SwinBlock(width, config.heads[level], config.window, config.window // 2 * (index % 2), side)
            for index in range(config.depths[level])
        )
        last = level == len(config.depths) - 1
        self.merge_norm = None if last else nn.LayerNorm(4 * width)
        self.merge = None if last else nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if self.merge is None or self.merge_norm is None:
            return x
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.merge(self.merge_norm(torch.cat(corners, -1)))


class HTSAT(nn.Module):
    """See the module docstring."""

    def __init__(self, config: HTSATConfig) -> None:
        super().__init__()
        self.config = config
        self.mel_norm = nn.BatchNorm2d(config.mels)
        self.patch_embed = nn.Conv2d(1, config.width, config.patch, stride=config.patch)
        self.patch_norm = nn.LayerNorm(config.width)
        self.levels = nn.ModuleList(SwinLevel(config, level) for level in range(len(config.depths)))
        self.final_norm = nn.LayerNorm(config.last_width)
        self.proj_in = nn.Linear(config.last_width, config.out_width)
        self.proj_out = nn.Linear(config.out_width, config.out_width)

    def forward(self, input_features: Tensor) -> Tensor:
        """log-mel [N, 1, T, mels] -> places [N, side / 32, side / 32, D].  Raises ConfigError for another shape."""
        shape, config = list(input_features.shape), self.config
        if len(shape) != 4 or shape[1] != 1 or shape[3] != config.mels or not 0 < shape[2] <= config.most_frames:
            raise ConfigError(f"htsat: input_features must be [N, 1, T, {config.mels}] with T up to "
                              f"{config.most_frames}, found {shape}")  # fmt: skip
        x = self.mel_norm(input_features.transpose(1, 3)).transpose(1, 3)
        x = self.patch_norm(self.patch_embed(self.folded(x)).movedim(1, -1))
        for level in self.levels:
            x = level(x)
        return self.final_norm(x)

    def folded(self, x: Tensor) -> Tensor:
        """`[N, 1, T, mels] -> [N, 1, side, side]`"""
        config = self.config
        if x.shape[2] < config.most_frames:
            x = F.interpolate(x, (config.most_frames, config.mels), mode="bicubic", align_corners=True)
        pieces = x.reshape(len(x), config.side // config.mels, config.side, config.mels)
        return pieces.transpose(2, 3).reshape(len(x), 1, config.side, config.side)

    def joint(self, input_features: Tensor) -> Tensor:
        """`[N, 1, T, mels] -> [N, E]`, not of unit length."""
        pooled = self(input_features).mean((1, 2))
        return self.proj_out(F.relu(self.proj_in(pooled)))


def parse_config(config: Mapping[str, Any]) -> HTSATConfig:
    """embed_dim, depths, num_heads, window_size and joint_embed_shape, as the published code calls them."""
    return HTSATConfig(width=config["embed_dim"], depths=tuple(config["depths"]), heads=tuple(config["num_heads"]),
                       window=config.get("window_size", 8), out_width=config["joint_embed_shape"])  # fmt: skip


def official_keys() -> KeyTable:
    """CLAP's own names, the sound's side of it; what classifies sounds and what follows the joint space is dropped."""
    body, block = "audio_branch", "audio_branch.layers.{}.blocks.{}"
    tables = ("relative_position_index", "attn_mask")
    rows: list[Row] = [drop(f"{block}.attn.{tables[0]}"), drop(f"{block}.{tables[1]}"), drop(f"{body}.tscam_conv.**"),
                       drop(f"{body}.head.**"), drop("audio_transform.**"), drop(f"{body}.spectrogram_extractor.**"),
                       drop(f"{body}.logmel_extractor.**")]  # fmt: skip
    rows += _block(block, "levels.{}.blocks.{}")
    rows += [rename(f"{body}.bn0.{leaf}", f"mel_norm.{leaf}")
             for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]  # fmt: skip
    merge = f"{body}.layers.{{}}.downsample"
    rows += [*pair(f"{body}.patch_embed.proj", "patch_embed"), *pair(f"{body}.patch_embed.norm", "patch_norm"),
             *pair(f"{merge}.norm", "levels.{}.merge_norm"), *pair(f"{body}.norm", "final_norm"),
             rename(f"{merge}.reduction.weight", "levels.{}.merge.weight"),
             *pair("audio_projection.0", "proj_in"), *pair("audio_projection.2", "proj_out")]  # fmt: skip
    return KeyTable(tuple(rows))


def _block(source: str, target: str) -> Iterator[Row]:
    yield rename(f"{source}.attn.relative_position_bias_table", f"{target}.attn.bias")
    for leaf in ("weight", "bias"):
        yield split(f"{source}.attn.qkv.{leaf}", [f"{target}.attn.{name}_proj.{leaf}" for name in "qkv"])
    for theirs, ours in (("attn.proj", "attn.o_proj"), ("norm1", "attn_norm"), ("norm2", "mlp_norm"),
                         ("mlp.fc1", "mlp.up_proj"), ("mlp.fc2", "mlp.down_proj")):  # fmt: skip
        yield from pair(f"{source}.{theirs}", f"{target}.{ours}")
