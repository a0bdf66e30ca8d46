"""InternViT (InternVL, arXiv 2312.14238): a ViT of 6B or 300M parameters with layer scale; the large one norms q and k.

Flow: see `vit.py`; class token and patches + positions -> blocks  x + a * attn(norm(x)),  x + m * mlp(norm(x)).

Traps: q and k are normed over all heads together, before they are split; there is no norm behind the last block;
positions are resized at each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import attend
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import FeedForwardConfig, MLPConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig, RMSNormConfig
from polymodal.weights.keytable import KeyTable, rename, split
from polymodal.weights.operations import Squeeze

DEFAULTS: dict[str, Any] = {
    "patch_size": 14,
    "image_size": 224,
    "qkv_bias": False,
    "hidden_size": 3200,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qk_normalization": True,
    "num_hidden_layers": 48,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "initializer_factor": 0.1,
}
"""What the published configuration class takes for absent keys."""
NORMS = {"rms_norm": RMSNormConfig, "layer_norm": LayerNormConfig}


@dataclass(frozen=True, kw_only=True)
class InternBlockConfig:
    """One block.  qk_eps: of the norms of q and k over the whole width, None: no norms.  scale: initial layer scale."""

    width: int
    heads: int
    mlp: FeedForwardConfig
    norm: NormConfig
    qkv_bias: bool = False
    qk_eps: float | None = None
    scale: float = 0.1

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"intern_vit: width {self.width} must be a multiple of its {self.heads} heads")

    def build(self) -> InternBlock:
        return InternBlock(self)


class InternAttention(nn.Module):
    """Attention both ways; `[N, S, D] -> [N, S, D]`."""

    def __init__(self, config: InternBlockConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj = (Linear(width, width, bias=config.qkv_bias) for _ in range(3))
        self.o_proj = Linear(width, width)
        normed = None if config.qk_eps is None else RMSNormConfig(eps=config.qk_eps)
        self.q_norm = None if normed is None else normed.build(width)
        self.k_norm = None if normed is None else normed.build(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        return self.o_proj(attend(q, k, v, None).transpose(1, 2).flatten(2))


class InternBlock(nn.Module):
    """`[N, S, D] -> [N, S, D]`"""

    def __init__(self, config: InternBlockConfig) -> None:
        super().__init__()
        width = config.width
        self.attn_norm, self.mlp_norm = config.norm.build(width), config.norm.build(width)
        self.attn, self.mlp = InternAttention(config), config.mlp.build()
        self.attn_scale = nn.Parameter(torch.full((width,), config.scale))
        self.mlp_scale = nn.Parameter(torch.full((width,), config.scale))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn_scale * self.attn(self.attn_norm(x))
        return x + self.mlp_scale * self.mlp(self.mlp_norm(x))


def parse_config(config: Mapping[str, Any], layer: int = -1) -> ViTConfig:
    """The encoder that an InternVisionConfig dict describes; layer: which hidden state is read, without class token."""
    given = {**DEFAULTS, **config}
    if given["norm_type"] not in NORMS:
        known = " or ".join(NORMS)
        raise ConfigError(f"vision_config.norm_type: expected {known}, found {str(given['norm_type'])[:40]!r}")
    width, eps = given["hidden_size"], given["layer_norm_eps"]
    mlp = MLPConfig(width=width, ffn_width=given["intermediate_size"], activation=given["hidden_act"])
    block = InternBlockConfig(
        width=width,
        heads=given["num_attention_heads"],
        mlp=mlp,
        norm=NORMS[given["norm_type"]](eps=eps),
        qkv_bias=given["qkv_bias"],
        qk_eps=eps if given["qk_normalization"] else None,
        scale=given["initializer_factor"],
    )
    return ViTConfig(
        image_size=given["image_size"], patch_size=given["patch_size"], width=width,
        blocks=(block,) * given["num_hidden_layers"], layer=layer, keep_class=False, resize_positions=True,
    )  # fmt: skip


def published_keys() -> KeyTable:
    """The published names (under `vision_model.`) -> ours; rows of what a size lacks match nothing."""
    layer, block = "encoder.layers.{}", "blocks.{}"
    pairs = {"norm1": "attn_norm", "norm2": "mlp_norm", "attn.proj": "attn.o_proj", "attn.q_norm": "attn.q_norm",
             "attn.k_norm": "attn.k_norm", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}  # fmt: skip
    leaves, qkv = ("weight", "bias"), [f"{block}.attn.{name}_proj" for name in "qkv"]
    return KeyTable(
        (
            rename("embeddings.class_embedding", "class_token", Squeeze(0), Squeeze(0)),
            rename("embeddings.position_embedding", "positions", Squeeze(0)),
            *(rename(f"embeddings.patch_embedding.{leaf}", f"patch_embed.{leaf}") for leaf in leaves),
            *(split(f"{layer}.attn.qkv.{leaf}", [f"{name}.{leaf}" for name in qkv]) for leaf in leaves),
            *(rename(f"{layer}.{a}.{leaf}", f"{block}.{b}.{leaf}") for a, b in pairs.items() for leaf in leaves),
            rename(f"{layer}.ls1", f"{block}.attn_scale"),
            rename(f"{layer}.ls2", f"{block}.mlp_scale"),
        )
    )
