"""GPT-NeoX decoders: sizes and key table of RedPajama-INCITE, the backbone of OpenFlamingo 4B.

Papers: GPT-NeoX-20B (arXiv 2204.06745), Pythia (2304.01373).

    blocks of  x + attn(norm1(x)) + mlp(norm2(x))      in parallel, or one after the other (`use_parallel_residual`)
    rope on the first quarter of each head; biases everywhere; head not tied

Traps: `query_key_value` holds q, k and v of one head next to each other, then the next head; the rotated share
(`rotary_pct`) is 1/4 when the config does not say; RedPajama-INCITE-3B rotates whole heads and is not parallel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, head_row
from polymodal.backbones.hf_rope import rope_of
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.nn.rope import RopeConfig, RopeScaling
from polymodal.weights.keytable import KeyTable, split


@dataclass(frozen=True, kw_only=True)
class GPTNeoXShape:
    """The numbers in which models of this family differ.  `rotary`: rotated share of each head."""

    width: int
    depth: int
    heads: int
    ffn_width: int
    vocab_size: int = 50432
    activation: str = "gelu"
    eps: float = 1e-5
    rotary: float = 0.25
    theta: float = 10000.0
    scaling: RopeScaling | None = None
    parallel: bool = True
    bias: bool = True
    tied: bool = False
    max_length: int = 2048

    def config(self) -> DecoderConfig:
        norm = LayerNormConfig(eps=self.eps)
        attention = AttentionConfig(width=self.width, heads=self.heads, qkv_bias=self.bias, out_bias=self.bias)
        mlp = MLPConfig(width=self.width, ffn_width=self.ffn_width, activation=self.activation)
        block = DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm, parallel=self.parallel)
        rotary = int(attention.size * self.rotary)
        return DecoderConfig(
            vocab_size=self.vocab_size,
            width=self.width,
            blocks=(block,) * self.depth,
            norm=norm,
            rope=RopeConfig(head_dim=attention.size, theta=self.theta, scaling=self.scaling, rotary_dim=rotary),
            tied=self.tied,
            max_length=self.max_length,
        )


def shape_of(config: Mapping[str, Any]) -> GPTNeoXShape:
    """The shape a `config.json` of model_type gpt_neox describes; raises ConfigError for what is not supported."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = config.get("rotary_emb_base")
    theta, scaling = rope_of(config, 10000.0 if base is None else float(base))
    return GPTNeoXShape(
        width=config.get("hidden_size", 6144),
        depth=config.get("num_hidden_layers", 44),
        heads=config.get("num_attention_heads", 64),
        ffn_width=config.get("intermediate_size", 24576),
        vocab_size=config.get("vocab_size", 50432),
        activation=config.get("hidden_act", "gelu"),
        eps=config.get("layer_norm_eps", 1e-5),
        rotary=given.get("partial_rotary_factor", config.get("rotary_pct", 0.25)),
        theta=theta,
        scaling=scaling,
        parallel=config.get("use_parallel_residual", True),
        bias=config.get("attention_bias", True),
        tied=config.get("tie_word_embeddings", False),
        max_length=config.get("max_position_embeddings", 2048),
    )


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a `config.json` of model_type gpt_neox describes, at any size."""
    return shape_of(config).config()


REDPAJAMA_3B = GPTNeoXShape(width=2560, depth=32, heads=32, ffn_width=10240, rotary=1.0, parallel=False)

_L, _B = "gpt_neox.layers.{}", "blocks.{}"
HF_NAMES: dict[str, str | None] = {
    "gpt_neox.embed_in.weight": "embed_tokens.weight",
    "gpt_neox.final_layer_norm.weight": "norm.weight",
    "gpt_neox.final_layer_norm.bias": "norm.bias",
    f"{_L}.attention.rotary_emb.inv_freq": None,
    f"{_L}.attention.bias": None,
    f"{_L}.attention.masked_bias": None,
} | {
    f"{_L}.{theirs}.{leaf}": f"{_B}.{ours}.{leaf}"
    for theirs, ours in {
        "input_layernorm": "attn_norm",
        "attention.dense": "attn.o_proj",
        "post_attention_layernorm": "mlp_norm",
        "mlp.dense_h_to_4h": "mlp.up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    }.items()
    for leaf in ("weight", "bias")
}
"""The hub's names -> ours, without the fused query_key_value and the head."""


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout (GPTNeoXForCausalLM) -> a Decoder of `config`; strict both ways."""
    heads = config.blocks[0].attention.heads
    fused = [
        split(
            f"{_L}.attention.query_key_value.{leaf}", [f"{_B}.attn.{name}_proj.{leaf}" for name in "qkv"], groups=heads
        )
        for leaf in ("weight", "bias")
    ]
    # `lm_head` is what the library calls it in memory; files have `embed_out`
    both = ("embed_out.weight", "lm_head.weight")
    head = [head_row(name, "gpt_neox.embed_in.weight", tied=config.tied) for name in both]
    return KeyTable.of(HF_NAMES, *fused, *head)
