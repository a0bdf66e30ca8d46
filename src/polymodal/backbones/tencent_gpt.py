"""GPT-2's shape as TencentPretrain trains it: its config and names (VisorGPT).

    tokens + learned positions -> blocks of norm, attention, norm, MLP with tanh GELU, all linears with bias -> norm
    -> head, tied to the tokens

Traps: its norm divides by the sample's deviation plus epsilon, so a LayerNorm gives other numbers; the three linears of
attention are numbered: queries, keys, values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, LearnedPositionsConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import DeviationNormConfig
from polymodal.weights.keytable import KeyTable, drop

FIXED: dict[str, Any] = {
    "embedding": ["word", "pos"], "remove_embedding_layernorm": True, "encoder": "transformer", "mask": "causal",
    "layernorm_positioning": "pre", "target": ["lm"], "tie_weights": True, "data_processor": "lm",
}  # fmt: skip
ACTIVATIONS = {"gelu_fast": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
WORDS = "embedding.word.embedding.weight"


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """TencentPretrain's config.json with `vocab_size`, of the vocabulary beside it.  Raises ConfigError."""
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise ConfigError(f"tencent gpt: {name} {config[name]!r} is not supported; expected {value!r}")
    width, heads, depth = config.get("hidden_size", 768), config.get("heads_num", 12), config.get("layers_num", 12)
    if config.get("emb_size", width) != width:
        raise ConfigError(f"tencent gpt: emb_size {config['emb_size']}: expected hidden_size, {width}")
    activation = ACTIVATIONS.get(config.get("hidden_act", "gelu_fast"))
    if activation is None:
        raise ConfigError(f"tencent gpt: hidden_act: expected {', '.join(ACTIVATIONS)}, found {config['hidden_act']!r}")
    norm = DeviationNormConfig()
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=config.get("feedforward_size", 4 * width), activation=activation),
        norm=norm,
    )
    length = config.get("max_seq_length", 1024)
    return DecoderConfig(vocab_size=config["vocab_size"], width=width, blocks=(block,) * depth, norm=norm, tied=True,
                         positions=LearnedPositionsConfig(count=length), max_length=length)  # fmt: skip


def keys() -> KeyTable:
    """Its names -> a Decoder."""
    names: dict[str, str | None] = {WORDS: "embed_tokens.weight", "embedding.pos.embedding.weight": "positions.weight"}
    layer = "encoder.transformer.{}"
    linears = {"self_attn.final_linear": "attn.o_proj", "feed_forward.linear_1": "mlp.up_proj",
               "feed_forward.linear_2": "mlp.down_proj"}  # fmt: skip
    linears |= {f"self_attn.linear_layers.{index}": f"attn.{name}_proj" for index, name in enumerate("qkv")}
    for leaf in ("weight", "bias"):
        names |= {f"{layer}.{theirs}.{leaf}": f"blocks.{{}}.{ours}.{leaf}" for theirs, ours in linears.items()}
    for theirs, ours in (("gamma", "weight"), ("beta", "bias")):
        names[f"{layer}.layer_norm_1.{theirs}"] = f"blocks.{{}}.attn_norm.{ours}"
        names[f"{layer}.layer_norm_2.{theirs}"] = f"blocks.{{}}.mlp_norm.{ours}"
        names[f"encoder.layer_norm.{theirs}"] = f"norm.{ours}"
    head = drop("target.lm.output_layer.weight", copy_of=WORDS)
    return KeyTable.of(names, head, tied={"lm_head.weight": "embed_tokens.weight"})
