"""Qwen2-VL's image and video encoder: any resolution, with 2-D rotary embeddings as the only positions.

Paper: Qwen2-VL (arXiv 2409.12191).

Flow
    patches [P, C*F*p*p] of all items concatenated, grid [N, 3] = (frames, rows, columns) in patches
    -> patch_embed (no bias) -> per frame: blocks of x + attn(norm(x)) with rope(row, column), x + mlp(norm(x))
    -> one tensor [frames*rows*columns, D] per item; no final norm

Traps
- Patches are ordered by merge block: (row block, column block, row in block, column in block); so are the positions.
- Attention stays within a frame; frames of equal size run as one batch, which does not change the result.
- An image is a video of one frame: the transform repeats it `frames` times.
- The first half of the frequencies encodes the row, the second the column; both start at the highest frequency.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.nn.rope import RopeConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Reshape

_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Qwen2ViTConfig:
    """Sizes; `merge`: side of a merge block in patches, `frames`: frames that one patch spans."""

    width: int = 1280
    depth: int = 32
    heads: int = 16
    ffn_width: int = 5120
    activation: str = "quick_gelu"
    patch_size: int = 14
    channels: int = 3
    frames: int = 2
    merge: int = 2
    theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 4:
            raise ConfigError(f"qwen2 vit: width / heads must be a multiple of 4, found {self.width} / {self.heads}")

    @property
    def patch_values(self) -> int:
        """Values per patch, ordered (channel, frame, row, column)."""
        return self.channels * self.frames * self.patch_size**2

    def build(self) -> "Qwen2ViT":
        """Build the encoder with fresh weights."""
        return Qwen2ViT(self)


class Qwen2ViTBlock(nn.Module):
    """`x + attn(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, config: Qwen2ViTConfig) -> None:
        super().__init__()
        norm = LayerNormConfig(eps=_EPS)
        self.attn_norm = norm.build(config.width)
        self.attn = AttentionConfig(width=config.width, heads=config.heads, qkv_bias=True, out_bias=True).build()
        self.mlp_norm = norm.build(config.width)
        self.mlp = MLPConfig(width=config.width, ffn_width=config.ffn_width, activation=config.activation).build()

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """G frames [G, S, D] -> [G, S, D]; `rope`: (cos, sin)."""
        x = x + self.attn(self.attn_norm(x), rope=rope)
        return x + self.mlp(self.mlp_norm(x))


class Qwen2ViT(nn.Module):
    """The encoder; see the module docstring for the flow."""

    def __init__(self, config: Qwen2ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = Linear(config.patch_values, config.width, bias=False)
        self.blocks = nn.ModuleList(Qwen2ViTBlock(config) for _ in range(config.depth))
        quarter = config.width // config.heads // 4
        self.rope = RopeConfig(
            head_dim=4 * quarter, theta=config.theta, sections=(quarter, quarter), restart=True
        ).build()

    def forward(self, patches: Tensor, grid: Tensor) -> list[Tensor]:
        """float [P, C*F*p*p] and int [N, 3] -> N features [frames*rows*columns, D], in merge-block order.

        The grid determines shapes, so it is read once; keep it on the host to avoid a device synchronisation.
        Raises PromptError if the number of patches does not match the grids.
        """
        shapes = grid_tuples(grid)
        frames = [rows * columns for count, rows, columns in shapes for _ in range(count)]
        patches = patches.reshape(-1, self.config.patch_values)
        if sum(frames) != len(patches):
            raise PromptError(f"qwen2 vit: the grids need {sum(frames)} patches, found {len(patches)}")
        x = self.patch_embed(patches.to(self.patch_embed.weight.dtype))
        positions = torch.cat([self._positions(shape) for shape in shapes]).to(x.device, non_blocking=True)
        pieces, frame_positions = list(x.split(frames)), positions.split(frames)
        for size in set(frames):
            same = [i for i, length in enumerate(frames) if length == size]
            stacked = torch.stack([pieces[i] for i in same]), torch.stack([frame_positions[i] for i in same])
            for i, frame in zip(same, self._encode(*stacked), strict=True):
                pieces[i] = frame
        return list(torch.cat(pieces).split([count * rows * columns for count, rows, columns in shapes]))

    def _encode(self, x: Tensor, positions: Tensor) -> Tensor:
        """Frames of equal size [G, S, D] and their positions [G, S, 2] -> [G, S, D]."""
        rope = self.rope(positions.permute(2, 0, 1), x.dtype)
        for block in self.blocks:
            x = block(x, rope)
        return x

    def _positions(self, shape: Sequence[int]) -> Tensor:
        """(row, column) of every patch of an item, int64 [frames*rows*columns, 2], in merge-block order."""
        count, rows, columns = shape
        side = self.config.merge
        if rows % side or columns % side:
            raise PromptError(f"qwen2 vit: grid sides must be multiples of {side}, found {rows} x {columns} patches")
        coordinates = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
        blocks = coordinates.view(rows // side, side, columns // side, side, 2).transpose(1, 2)
        return blocks.reshape(-1, 2).repeat(count, 1)


def grid_tuples(grid: Tensor) -> list[tuple[int, int, int]]:
    """An int tensor of grids [N, 3] as tuples (frames, rows, columns)."""
    return [(int(count), int(rows), int(columns)) for count, rows, columns in grid.tolist()]


def parse_config(config: Mapping[str, Any]) -> Qwen2ViTConfig:
    """The encoder of a published `vision_config`, at any size; absent keys take transformers' defaults."""
    for name in ("patch_size", "temporal_patch_size"):
        if not isinstance(config.get(name, 0), int):
            raise ConfigError(f"qwen2 vit: {name} must be one number, found {config[name]}")
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "axial") not in ("axial", "default"):
        raise ConfigError(f"qwen2 vit: rope_type {rope['rope_type']!r} is not supported; expected 'axial'")
    width = config.get("embed_dim", 1280)
    return Qwen2ViTConfig(
        width=width,
        depth=config.get("depth", 32),
        heads=config.get("num_heads", 16),
        ffn_width=int(width * config.get("mlp_ratio", 4)),
        activation=config.get("hidden_act", "quick_gelu"),
        patch_size=config.get("patch_size", 14),
        channels=config.get("in_channels", 3),
        frames=config.get("temporal_patch_size", 2),
        merge=config.get("spatial_merge_size", 2),
        theta=float(rope.get("rope_theta", 10000.0)),
    )


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")


def hf_keys(config: Qwen2ViTConfig) -> KeyTable:
    """Published names (without the prefix `visual.`) -> ours; for the merger see `connectors/patch_merger.py`."""
    kernel = (config.channels, config.frames, config.patch_size, config.patch_size)
    qkv = [
        split(f"blocks.{{}}.attn.qkv.{leaf}", [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"])
        for leaf in ("weight", "bias")
    ]
    flat = Reshape((config.width, *kernel), (config.width, config.patch_values))
    return KeyTable(
        (
            rename("patch_embed.proj.weight", "patch_embed.weight", flat),
            *qkv,
            *_pair("blocks.{}.norm1", "blocks.{}.attn_norm"),
            *_pair("blocks.{}.attn.proj", "blocks.{}.attn.o_proj"),
            *_pair("blocks.{}.norm2", "blocks.{}.mlp_norm"),
            *_pair("blocks.{}.mlp.fc1", "blocks.{}.mlp.up_proj"),
            *_pair("blocks.{}.mlp.fc2", "blocks.{}.mlp.down_proj"),
        )
    )
