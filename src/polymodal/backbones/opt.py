"""OPT decoders: sizes and key table (arXiv 2205.01068); the language model of BLIP-2.

    tokens -> (project_in) -> + learned positions, read two rows further -> blocks of LayerNorm -> attention ->
    LayerNorm -> ReLU MLP, all linears with bias -> (LayerNorm) -> (project_out) -> head, tied to the embedding

Traps: the table of positions has two rows more than positions; OPT-350m alone norms after each sum, has no norm at
the end and embeds in 512 dimensions; files call the norm before the MLP `final_layer_norm`, like the one at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, LearnedPositionsConfig, head_row
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class OPTShape:
    """The numbers in which models of this family differ.  `affine`: the norms have weights.

    norm_first False: each norm follows its sum and there is none at the end, as without `final_norm`.
    """

    width: int
    depth: int
    heads: int
    ffn_width: int
    vocab_size: int = 50272
    max_length: int = 2048
    embed_width: int | None = None
    activation: str = "relu"
    norm_first: bool = True
    final_norm: bool = True
    bias: bool = True
    affine: bool = True
    tied: bool = True

    def config(self) -> DecoderConfig:
        norm = LayerNormConfig(affine=self.affine)
        attention = AttentionConfig(width=self.width, heads=self.heads, qkv_bias=self.bias, out_bias=self.bias)
        mlp = MLPConfig(width=self.width, ffn_width=self.ffn_width, activation=self.activation, bias=self.bias)
        block = DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm, order="pre" if self.norm_first else "post")
        return DecoderConfig(
            vocab_size=self.vocab_size,
            width=self.width,
            blocks=(block,) * self.depth,
            norm=norm if self.norm_first and self.final_norm else None,
            positions=LearnedPositionsConfig(count=self.max_length, offset=2),
            embed_width=None if self.embed_width == self.width else self.embed_width,
            tied=self.tied,
            max_length=self.max_length,
        )


OPT_125M = OPTShape(width=768, depth=12, heads=12, ffn_width=3072)
OPT_350M = OPTShape(width=1024, depth=24, heads=16, ffn_width=4096, embed_width=512, norm_first=False)
OPT_1_3B = OPTShape(width=2048, depth=24, heads=32, ffn_width=8192)
OPT_2_7B = OPTShape(width=2560, depth=32, heads=32, ffn_width=10240)
OPT_6_7B = OPTShape(width=4096, depth=32, heads=32, ffn_width=16384)
OPT_13B = replace(OPT_6_7B, width=5120, depth=40, heads=40, ffn_width=20480)
OPT_30B = replace(OPT_6_7B, width=7168, depth=48, heads=56, ffn_width=28672)
OPT_66B = replace(OPT_6_7B, width=9216, depth=64, heads=72, ffn_width=36864)


def shape_of(config: Mapping[str, Any]) -> OPTShape:
    """The shape a published `config.json` of this family describes, at any size."""
    return OPTShape(
        width=config.get("hidden_size", 768),
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        ffn_width=config.get("ffn_dim", 3072),
        vocab_size=config.get("vocab_size", 50272),
        max_length=config.get("max_position_embeddings", 2048),
        embed_width=config.get("word_embed_proj_dim"),
        activation=config.get("activation_function", "relu"),
        norm_first=bool(config.get("do_layer_norm_before", True)),
        final_norm=not config.get("_remove_final_layer_norm", False),
        bias=bool(config.get("enable_bias", True)),
        affine=bool(config.get("layer_norm_elementwise_affine", True)),
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size."""
    return shape_of(config).config()


_PAIRS = {
    "self_attn_layer_norm": "attn_norm",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.o_proj",
    "final_layer_norm": "mlp_norm",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
}


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout -> a Decoder of `config`; strict both ways."""
    names: dict[str, str | None] = {
        "model.decoder.embed_tokens.weight": "embed_tokens.weight",
        "model.decoder.embed_positions.weight": "positions.weight",
        "model.decoder.project_in.weight": "project_in.weight",
        "model.decoder.project_out.weight": "project_out.weight",
    }
    for leaf in ("weight", "bias"):
        names[f"model.decoder.final_layer_norm.{leaf}"] = f"norm.{leaf}"
        for theirs, ours in _PAIRS.items():
            names[f"model.decoder.layers.{{}}.{theirs}.{leaf}"] = f"blocks.{{}}.{ours}.{leaf}"
    head = head_row("lm_head.weight", "model.decoder.embed_tokens.weight", tied=config.tied)
    return KeyTable.of(names, head)
