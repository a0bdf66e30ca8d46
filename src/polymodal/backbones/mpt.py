"""MPT decoders: sizes and key tables of MPT-7B and of its forerunner MPT-1B, backbones of OpenFlamingo 9B and 3B.

No paper; MosaicML, "Introducing MPT-7B" (2023).  ALiBi: arXiv 2108.12409.

    blocks of  LayerNorm -> attention with ALiBi -> LayerNorm -> GELU MLP;  no biases at all, head tied
    options: clip of q, k and v; layer norm of q and k over the WHOLE width, before heads (MPT-1B); learned positions

Two spellings of config and files: model_type "mpt" (`norm_1`, `ffn.up_proj`, options under `attn_config`) and
"mosaic_gpt" (`ln_1`, `mlp.mlp_up`, options `attn_...`).
Traps: the slopes of a head count that is no power of two are every second of the next power, odd ones first; the
library's own "mpt" reads neither `qk_ln` nor `no_bias` nor `expansion_ratio`: here they mean what MosaicML's code does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, LearnedPositionsConfig, head_row
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, split


@dataclass(frozen=True, kw_only=True)
class MptProjectionConfig:
    """A linear whose output is clipped to -clip..clip, then normed over its whole width."""

    clip: float | None = None
    norm: LayerNormConfig | None = None

    def build(self, in_width: int, out_width: int, bias: bool = False) -> nn.Module:
        if self.clip is None and self.norm is None:
            return Linear(in_width, out_width, bias=bias)
        return MptProjection(self, in_width, out_width, bias)


class MptProjection(Linear):
    """``[..., in] -> [..., out]``"""

    def __init__(self, config: MptProjectionConfig, in_width: int, out_width: int, bias: bool) -> None:
        super().__init__(in_width, out_width, bias=bias)
        self.clip = config.clip
        self.norm = None if config.norm is None else config.norm.build(out_width)

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        x = super().forward(x, token_types)
        if self.clip is not None:
            x = x.clamp(-self.clip, self.clip)
        return x if self.norm is None else self.norm(x)


def alibi_slopes(heads: int, bias_max: float = 8.0) -> tuple[float, ...]:
    """One slope per head: 2 ** -(bias_max * i / n) for i in 1..n, n the next power of two."""
    power = 2 ** math.ceil(math.log2(heads))
    slopes = [2.0 ** -(bias_max * i / power) for i in range(1, power + 1)]
    return tuple(slopes if power == heads else (slopes[1::2] + slopes[::2])[:heads])


@dataclass(frozen=True, kw_only=True)
class MptShape:
    """The numbers in which models of this family differ.  `alibi_max` None: learned positions."""

    width: int
    depth: int
    heads: int
    ffn_width: int
    vocab_size: int = 50368
    clip: float | None = None
    scale: float | None = None
    qk_norm: bool = False
    alibi_max: float | None = 8.0
    bias: bool = False
    eps: float = 1e-5
    tied: bool = True
    max_length: int = 2048

    def config(self) -> DecoderConfig:
        norm = LayerNormConfig(eps=self.eps, bias=self.bias)
        plain = MptProjectionConfig(clip=self.clip)
        normed = replace(plain, norm=LayerNormConfig(bias=self.bias)) if self.qk_norm else plain
        attention = AttentionConfig(
            width=self.width,
            heads=self.heads,
            qkv_bias=self.bias,
            out_bias=self.bias,
            scale=self.scale,
            linears=AttentionLinears(q=normed, k=normed, v=plain),
        )
        mlp = MLPConfig(width=self.width, ffn_width=self.ffn_width, bias=self.bias)
        return DecoderConfig(
            vocab_size=self.vocab_size,
            width=self.width,
            blocks=(DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm),) * self.depth,
            norm=norm,
            positions=LearnedPositionsConfig(count=self.max_length) if self.alibi_max is None else None,
            alibi=None if self.alibi_max is None else alibi_slopes(self.heads, self.alibi_max),
            tied=self.tied,
            max_length=self.max_length,
        )


def shape_of(config: Mapping[str, Any]) -> MptShape:
    """The shape a `config.json` of model_type mpt or mosaic_gpt describes; raises ConfigError for other options."""
    old = config.get("model_type") == "mosaic_gpt"
    nested = {} if old else dict(config.get("attn_config") or {})

    def option(name: str, default: Any) -> Any:
        return config.get(f"attn_{name}", config.get(name, default)) if old else nested.get(name, default)

    if option("prefix_lm", False) or nested.get("attn_type", "multihead_attention") != "multihead_attention":
        raise ConfigError("mpt: prefix_lm and multiquery_attention are not supported; expected causal multi-head")
    if config.get("logit_scale") is not None:
        raise ConfigError(f"mpt: logit_scale {config['logit_scale']!r} is not supported; expected null")
    width = config.get("d_model", 2048)
    return MptShape(
        width=width,
        depth=config.get("n_layers", 24),
        heads=config.get("n_heads", 16),
        ffn_width=width * config.get("mlp_ratio" if old else "expansion_ratio", 4),
        vocab_size=config.get("vocab_size", 50368),
        clip=option("clip_qkv", None) or None,
        scale=option("softmax_scale", None),
        qk_norm=option("qk_ln", False),
        alibi_max=option("alibi_bias_max", 8) if option("alibi", not old) else None,
        bias=not config.get("no_bias", not old),
        eps=config.get("layer_norm_epsilon", 1e-5),
        tied=config.get("tie_word_embeddings", True),
        max_length=config.get("max_seq_len", 2048),
    )


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a `config.json` of model_type mpt or mosaic_gpt describes, at any size."""
    return shape_of(config).config()


MPT_7B = MptShape(width=4096, depth=32, heads=32, ffn_width=16384, vocab_size=50432)
MPT_1B = MptShape(width=2048, depth=24, heads=16, ffn_width=8192, qk_norm=True)

_NAMES = {
    "mpt": {
        "norm_1": "attn_norm",
        "norm_2": "mlp_norm",
        "ffn.up_proj": "mlp.up_proj",
        "ffn.down_proj": "mlp.down_proj",
    },
    "mosaic_gpt": {
        "ln_1": "attn_norm",
        "ln_2": "mlp_norm",
        "mlp.mlp_up": "mlp.up_proj",
        "mlp.mlp_down": "mlp.down_proj",
    },
}


def hf_keys(config: DecoderConfig, spelling: str = "mpt") -> KeyTable:
    """The hub's layout of model_type `spelling` ("mpt" or "mosaic_gpt") -> a Decoder of `config`."""
    final = "norm_f" if spelling == "mpt" else "ln_f"
    names: dict[str, str | None] = {
        "transformer.wte.weight": "embed_tokens.weight",
        "transformer.wpe.weight": "positions.weight",
    }
    common = {"attn.out_proj": "attn.o_proj", "attn.q_ln": "attn.q_proj.norm", "attn.k_ln": "attn.k_proj.norm"}
    for leaf in ("weight", "bias"):
        names[f"transformer.{final}.{leaf}"] = f"norm.{leaf}"
        for theirs, ours in (_NAMES[spelling] | common).items():
            names[f"transformer.blocks.{{}}.{theirs}.{leaf}"] = f"blocks.{{}}.{ours}.{leaf}"
    fused = [
        split(f"transformer.blocks.{{}}.attn.Wqkv.{leaf}", [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"])
        for leaf in ("weight", "bias")
    ]
    return KeyTable.of(names, *fused, head_row("lm_head.weight", "transformer.wte.weight", tied=config.tied))
