"""The visual abstractor of mPLUG-Owl (arXiv 2304.14178) and mPLUG-Owl2 (arXiv 2311.04257).

Flow
    features [N, S, D], queries [Q, D]
    layer:  q = norm(x);  kv = [q, norm(features)];  x = q + attention(q + query positions, kv + positions, kv)
            x = x + down(norm(silu(gate) * up))                  with biases; the inner norm has the width of up
    -> proj -> [queries, end token] [N, Q + 1, Dout]

Traps: the residual branch starts from the normalised queries; positions (mPLUG-Owl2) are added to queries and keys
after the norms and never to values; these sine tables are fixed: the published checkpoint leaves them out, those that
the official code saves hold them in every layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import attend
from polymodal.nn.computed import computed_buffer
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, Row, rename
from polymodal.weights.operations import Reshape


@dataclass(frozen=True, kw_only=True)
class AbstractorConfig:
    """`queries` learned queries in `depth` layers.

    grid: side of the patch grid for the key positions, None: no positions.  class_row: prepend a row of zeros for the
    class token.
    """

    queries: int = 64
    depth: int = 6
    heads: int = 16
    ffn_width: int = 2816
    grid: int | None = 32
    class_row: bool = True
    norm: NormConfig = field(default_factory=LayerNormConfig)
    inner_norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-6))

    def build(self, in_width: int, out_width: int) -> "Abstractor":
        """Build the connector with fresh weights."""
        return Abstractor(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out: the queries and the end token."""
        return self.queries + 1


class Abstractor(nn.Module):
    """`[N, S, Din] -> [N, queries + 1, Dout]`"""

    def __init__(self, config: AbstractorConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        if in_width % config.heads:
            raise ConfigError(f"abstractor: a width of {in_width} does not divide into {config.heads} heads")
        self.config = config
        self.queries = nn.Parameter(torch.randn(config.queries, in_width))
        self.layers = nn.ModuleList(AbstractorLayer(config, in_width) for _ in range(config.depth))
        self.proj = Linear(in_width, out_width)
        self.end = nn.Parameter(torch.randn(out_width))

    def forward(self, features: Tensor) -> Tensor:
        """Map float [N, S, Din] to [N, queries + 1, Dout]."""
        x = self.queries.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, features)
        return torch.cat((self.proj(x), self.end.expand(x.shape[0], 1, -1)), dim=1)


class AbstractorLayer(nn.Module):
    """`x [N, Q, D], features [N, S, D] -> [N, Q, D]`"""

    query_positions: Tensor | None
    key_positions: Tensor | None

    def __init__(self, config: AbstractorConfig, width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_norm, self.feature_norm = config.norm.build(width), config.norm.build(width)
        self.q_proj, self.k_proj, self.v_proj = (Linear(width, width) for _ in range(3))
        self.o_proj = Linear(width, width)
        self.mlp_norm = config.norm.build(width)
        self.gate_proj, self.up_proj = Linear(width, config.ffn_width), Linear(width, config.ffn_width)
        self.inner_norm = config.inner_norm.build(config.ffn_width)
        self.down_proj = Linear(config.ffn_width, width)
        grid = config.grid
        if grid is None:
            self.query_positions = self.key_positions = None
        else:
            computed_buffer(self, "query_positions", lambda: sine_positions(torch.arange(config.queries), width))
            computed_buffer(self, "key_positions", lambda: sine_positions_2d(grid, width, config.class_row))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        x = self.query_norm(x)
        keys = values = torch.cat((x, self.feature_norm(features)), dim=1)
        queries = x
        if self.query_positions is not None and self.key_positions is not None:
            positions = torch.cat((self.query_positions, self.key_positions)).to(x.dtype)
            keys, queries = keys + positions, x + self.query_positions.to(x.dtype)
        q, k, v = (self._split_heads(t) for t in (self.q_proj(queries), self.k_proj(keys), self.v_proj(values)))
        x = x + self.o_proj(attend(q, k, v, None).transpose(1, 2).flatten(2))
        inner = self.mlp_norm(x)
        inner = F.silu(self.gate_proj(inner)) * self.up_proj(inner)
        return x + self.down_proj(self.inner_norm(inner))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def sine_positions(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of positions [M]: `width / 2` sines, then as many cosines -> float32 [M, width]."""
    frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), 1).float()


def sine_positions_2d(grid: int, width: int, class_row: bool) -> Tensor:
    """Positions of a square grid, row-major: the first half of the width encodes the column, the second the row."""
    row, column = torch.arange(grid).repeat_interleave(grid), torch.arange(grid).repeat(grid)
    plane = torch.cat((sine_positions(column, width // 2), sine_positions(row, width // 2)), 1)
    return torch.cat((torch.zeros(1, width), plane)) if class_row else plane


def parse_config(config: Mapping[str, Any], encoder_width: int) -> AbstractorConfig:
    """The connector of mPLUG-Owl2 from a MplugOwlVisualAbstractorConfig dict.

    Raises ConfigError if a width is not that of the encoder, and for add_v2t_pos_emb.
    """
    for name in ("hidden_size", "encoder_hidden_size"):
        if config.get(name, 1024) != encoder_width:
            raise ConfigError(f"abstractor: {name} must be {encoder_width}, found {config.get(name, 1024)}")
    if config.get("add_v2t_pos_emb"):
        raise ConfigError("abstractor: add_v2t_pos_emb is not supported; the official code never uses its tables")
    return AbstractorConfig(
        queries=config.get("num_learnable_queries", 64),
        depth=config.get("num_hidden_layers", 6),
        heads=config.get("num_attention_heads", 16),
        ffn_width=config.get("intermediate_size", 2816),
        grid=config.get("grid_size") or 32,
        class_row=config.get("use_cls_token", True),
        inner_norm=LayerNormConfig(eps=config.get("layer_norm_eps", 1e-6)),
    )


def owl_keys(config: AbstractorConfig, in_width: int, out_width: int) -> KeyTable:
    """mPLUG-Owl2's names (under `model.visual_abstractor.`) -> ours."""
    layer = "encoder.layers.{}.crossattention"
    names = {
        "attention.query": "q_proj",
        "attention.key": "k_proj",
        "attention.value": "v_proj",
        "output.out_proj": "o_proj",
        "output.norm2": "mlp_norm",
        "output.mlp.w1": "gate_proj",
        "output.mlp.w2": "down_proj",
        "output.mlp.w3": "up_proj",
        "output.mlp.ffn_ln": "inner_norm",
        "norm1": "query_norm",
        "normk": "feature_norm",
    }
    rows: list[Row] = [
        rename("query_embeds", "queries", Reshape((1, config.queries, in_width), (config.queries, in_width))),
        rename("vit_eos", "end", Reshape((1, 1, out_width), (out_width,))),
    ]
    for source, target in ((f"{layer}.{a}", f"layers.{{}}.{b}") for a, b in names.items()):
        rows += [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]
    rows += [rename(f"visual_fc.{leaf}", f"proj.{leaf}") for leaf in ("weight", "bias")]
    if config.grid is not None:
        rows.append(rename(f"{layer}.attention.q_pos_embed", "layers.{}.query_positions"))
        rows.append(rename(f"{layer}.attention.k_pos_embed", "layers.{}.key_positions"))
    return KeyTable(tuple(rows))
