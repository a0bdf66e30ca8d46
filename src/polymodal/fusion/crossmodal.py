"""Directional cross-modal transformer of MulT (arXiv 1906.00295): one sequence reads another, step by step.

    x [B, T, D], source [B, S, D] -> each * sqrt(D) + sinusoidal positions
    block: x + attn(norm(x), norm(source)) -> x + mlp(norm2(x));   at the end a norm -> [B, T, D]
Without a source the sequence reads itself (MulT's memory).

Traps
- One norm serves query, key and value; the source is the same low-level sequence in every block, never updated.
- The mask is on by default: query i sees key j when j - i <= |S - T|.
- A step whose first feature is exactly 0 counts as padding and gets no position (row 0 of the table is zero).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split


@dataclass(frozen=True, kw_only=True)
class CrossModalConfig:
    """`cross` False: the memory, which reads itself.  `future_mask`: see the module's traps.  `positions` False: steps
    are scaled only (MMSA's copy of the model)."""

    width: int
    heads: int
    depth: int
    cross: bool = True
    future_mask: bool = True
    positions: bool = True

    def build(self) -> "CrossModal":
        return CrossModal(self)


class CrossModalBlock(nn.Module):
    """`[B, T, D] -> [B, T, D]`"""

    def __init__(self, config: CrossModalConfig):
        super().__init__()
        width = config.width
        source = width if config.cross else None
        attention = AttentionConfig(width=width, heads=config.heads, qkv_bias=True, out_bias=True, source_width=source)
        self.attn_norm = LayerNormConfig().build(width)
        self.attn = attention.build()
        self.mlp_norm = LayerNormConfig().build(width)
        self.mlp = MLPConfig(width=width, ffn_width=4 * width, activation="relu").build()

    def forward(self, x: Tensor, source: Tensor | None, mask: PreparedMask) -> Tensor:
        read = None if source is None else self.attn_norm(source)
        x = x + self.attn(self.attn_norm(x), mask, source=read)
        return x + self.mlp(self.mlp_norm(x))


class CrossModal(nn.Module):
    """See the module docstring."""

    def __init__(self, config: CrossModalConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(CrossModalBlock(config) for _ in range(config.depth))
        self.norm = LayerNormConfig().build(config.width)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """`x [B, T, D]`, `source [B, S, D]` -> `[B, T, D]`."""
        mask = self._mask(x.shape[1], x.shape[1] if source is None else source.shape[1], x.device)
        x = self._placed(x)
        read = None if source is None else self._placed(source)
        for block in self.blocks:
            x = block(x, read, mask)
        return self.norm(x)

    def _placed(self, x: Tensor) -> Tensor:
        if not self.config.positions:
            return x * math.sqrt(self.config.width)
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)
        places = torch.where(x[..., 0] != 0, steps, 0)
        table = sinusoids(x.shape[1] + 1, x.shape[2], x.device).to(x.dtype)
        return x * math.sqrt(self.config.width) + table[places]

    def _mask(self, queries: int, keys: int, device: torch.device) -> PreparedMask:
        if not self.config.future_mask:
            return PreparedMask()
        ahead = torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None]
        return MaskSpec(causal=False, visible=(ahead <= abs(keys - queries))[None]).prepare(queries, keys, device)


def sinusoids(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions 0 .. count - 1, `[count, width]`: sines, then cosines, a zero column if odd; row 0 is zero."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=device) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(count, dtype=torch.float32, device=device)[:, None] * rates
    table = torch.cat((angles.sin(), angles.cos()), 1)
    table = torch.nn.functional.pad(table, (0, width - table.shape[1]))
    table[0] = 0
    return table


def _pair(source: str, target: str) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]


def _thirds(leaf: str) -> Row:
    targets = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
    return split(f"layers.{{}}.self_attn.in_proj_{leaf}", targets)


OFFICIAL_KEYS = KeyTable(
    (
        drop("version"),
        drop("embed_positions._float_tensor"),
        _thirds("weight"),
        _thirds("bias"),
        *_pair("layers.{}.self_attn.out_proj", "blocks.{}.attn.o_proj"),
        *_pair("layers.{}.layer_norms.0", "blocks.{}.attn_norm"),
        *_pair("layers.{}.layer_norms.1", "blocks.{}.mlp_norm"),
        *_pair("layers.{}.fc1", "blocks.{}.mlp.up_proj"),
        *_pair("layers.{}.fc2", "blocks.{}.mlp.down_proj"),
        *_pair("layer_norm", "norm"),
    )
)
"""The names of one encoder in the official files -> ours."""
