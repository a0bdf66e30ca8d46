"""T5 and Flan-T5: sizes and key table for `encoder_decoder.py`.

Papers: T5 (arXiv 1910.10683), T5 v1.1 (2002.05202), Flan-T5 (2210.11416); the language model of BLIP-2.

    RMS norm before everything, no biases, attention WITHOUT a scale, relative positions per stack

Traps: the width of all heads together need not be the model's; the first T5 ties its head to the embedding and
divides what enters it by sqrt(width), v1.1 and Flan-T5 do neither; transformers 5 writes `tie_word_embeddings: true`
for all of them and tells by `scale_decoder_outputs`; `dense_act_fn` overrides what `feed_forward_proj` says (BLIP-2
runs Flan-T5 with the exact gelu).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from polymodal.backbones.decoder import head_row
from polymodal.backbones.encoder_decoder import EncoderDecoderConfig, StackBlockConfig, StackConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig, MLPConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.relative import RelativePositionsConfig
from polymodal.weights.keytable import KeyTable, Row, copy, drop, rename


@dataclass(frozen=True, kw_only=True)
class T5Shape:
    """The numbers in which models of this family differ.  `decoder_depth` None: as deep as the encoder."""

    width: int
    depth: int
    heads: int
    ffn_width: int
    head_dim: int = 64
    decoder_depth: int | None = None
    vocab_size: int = 32128
    activation: str = "gelu_new"
    gated: bool = True
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    tied: bool = False
    start_id: int = 0
    pad_id: int = 0

    def config(self) -> EncoderDecoderConfig:
        return EncoderDecoderConfig(
            vocab_size=self.vocab_size,
            width=self.width,
            encoder=self._stack(self.depth, decoder=False),
            decoder=self._stack(self.depth if self.decoder_depth is None else self.decoder_depth, decoder=True),
            tied=self.tied,
            head_scale=self.width**-0.5 if self.tied else None,
            start_id=self.start_id,
            pad_id=self.pad_id,
        )

    def _stack(self, depth: int, *, decoder: bool) -> StackConfig:
        attention = AttentionConfig(width=self.width, heads=self.heads, head_dim=self.head_dim, scale=1.0)
        norm = RMSNormConfig(eps=self.eps)
        mlp = (GatedMLPConfig if self.gated else MLPConfig)(
            width=self.width, ffn_width=self.ffn_width, activation=self.activation, bias=False
        )
        cross = replace(attention, source_width=self.width) if decoder else None
        bias = RelativePositionsConfig(
            heads=self.heads, bidirectional=not decoder, buckets=self.buckets, max_distance=self.max_distance
        )
        block = StackBlockConfig(attention=attention, mlp=mlp, norm=norm, cross=cross)
        return StackConfig(blocks=(block,) * depth, norm=norm, bias=bias)


T5_SMALL = T5Shape(width=512, depth=6, heads=8, ffn_width=2048, activation="relu", gated=False, tied=True)
T5_BASE = replace(T5_SMALL, width=768, depth=12, heads=12, ffn_width=3072)
T5_LARGE = replace(T5_SMALL, width=1024, depth=24, heads=16, ffn_width=4096)
FLAN_T5_SMALL = T5Shape(width=512, depth=8, heads=6, ffn_width=1024)
FLAN_T5_BASE = T5Shape(width=768, depth=12, heads=12, ffn_width=2048)
FLAN_T5_LARGE = T5Shape(width=1024, depth=24, heads=16, ffn_width=2816)
FLAN_T5_XL = T5Shape(width=2048, depth=24, heads=32, ffn_width=5120)
FLAN_T5_XXL = T5Shape(width=4096, depth=24, heads=64, ffn_width=10240)


def shape_of(config: Mapping[str, Any]) -> T5Shape:
    """The shape a published `config.json` of this family describes, at any size."""
    kind = config.get("feed_forward_proj", "relu")
    words = kind.split("-")
    if len(words) > 2 or (len(words) == 2 and words[0] != "gated"):
        raise ConfigError(f"T5: feed_forward_proj must be NAME or gated-NAME, found {kind!r}")
    activation = "gelu_new" if kind == "gated-gelu" else words[-1]
    # The library's class itself writes tie_word_embeddings true whatever the model is, and scales where it was true.
    scaled = bool(config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True)))
    start = config.get("decoder_start_token_id")
    return T5Shape(
        width=config.get("d_model", 512),
        depth=config.get("num_layers", 6),
        heads=config.get("num_heads", 8),
        ffn_width=config.get("d_ff", 2048),
        head_dim=config.get("d_kv", 64),
        decoder_depth=config.get("num_decoder_layers"),
        vocab_size=config.get("vocab_size", 32128),
        activation=config.get("dense_act_fn", activation),
        gated=bool(config.get("is_gated_act", len(words) == 2)),
        buckets=config.get("relative_attention_num_buckets", 32),
        max_distance=config.get("relative_attention_max_distance", 128),
        eps=config.get("layer_norm_epsilon", 1e-6),
        tied=scaled,
        start_id=(config.get("bos_token_id") or 0) if start is None else start,
        pad_id=config.get("pad_token_id") or 0,
    )


def parse_config(config: Mapping[str, Any]) -> EncoderDecoderConfig:
    """The encoder-decoder a published `config.json` of this family describes, at any size."""
    found = shape_of(config).config()
    # A head of its own may lie behind the scale of a tied one.
    return found if config.get("tie_word_embeddings", True) else replace(found, tied=False)


def _stack_names(side: str, gated: bool) -> dict[str, str | None]:
    block, ours = f"{side}.block.{{}}.layer", f"{side}.blocks.{{}}"
    last = 2 if side == "decoder" else 1
    names = {f"{block}.0.SelfAttention.{word}": f"{ours}.attn.{word}_proj" for word in "qkvo"}
    names[f"{block}.0.layer_norm"] = f"{ours}.attn_norm"
    if side == "decoder":
        names |= {f"{block}.1.EncDecAttention.{word}": f"{ours}.cross.{word}_proj" for word in "qkvo"}
        names[f"{block}.1.layer_norm"] = f"{ours}.cross_norm"
    dense = f"{block}.{last}.DenseReluDense"
    names |= (
        {f"{dense}.wi_0": f"{ours}.mlp.gate_proj", f"{dense}.wi_1": f"{ours}.mlp.up_proj"}
        if gated
        else {f"{dense}.wi": f"{ours}.mlp.up_proj"}
    )
    names[f"{dense}.wo"] = f"{ours}.mlp.down_proj"
    names[f"{block}.{last}.layer_norm"] = f"{ours}.mlp_norm"
    names[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"] = f"{side}.bias"
    names[f"{side}.final_layer_norm"] = f"{side}.norm"
    return {f"{theirs}.weight": f"{mine}.weight" for theirs, mine in names.items()}


def decoder_rows(gated: bool = False) -> tuple[Row, ...]:
    """The decoder's stack alone, below `decoder.` on both sides, but for its table of words."""
    rows = KeyTable.of(_stack_names("decoder", gated)).rows
    return tuple(replace(row, targets=tuple(name.removeprefix("decoder.") for name in row.targets)) for row in rows)


def hf_keys(config: EncoderDecoderConfig) -> tuple[KeyTable, ...]:
    """The hub's layouts -> an EncoderDecoder of `config`, strict both ways: the published one first.

    The second is what transformers 5 saves when nothing but a tied head was ever loaded: one table for both.
    """
    gated = isinstance(config.encoder.blocks[0].mlp, GatedMLPConfig)
    body: dict[str, str | None] = {
        **_stack_names("encoder", gated),
        **_stack_names("decoder", gated),
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,
    }
    copies = [drop(f"{side}.embed_tokens.weight", copy_of="shared.weight") for side in ("encoder", "decoder")]
    shared = rename("shared.weight", "embed_tokens.weight")
    whole = KeyTable.of(body, *copies, shared, head_row("lm_head.weight", "shared.weight", tied=config.tied))
    if config.tied:
        return (whole,)
    once = copy("shared.weight", ("embed_tokens.weight", "lm_head.weight"))
    return whole, KeyTable.of(body, *copies, once)
