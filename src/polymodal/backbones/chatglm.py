"""ChatGLM-6B: GLM's blocks (arXiv 2210.02414), positions on two axes, a prefix that sees itself (arXiv 2103.10360).

    position_ids [2, B, T]: places, and how many tokens have been written since <sop>, 0 in the context
    rope turns the first half of each head by (place - written), the second by `written`
    block:  n = norm(x);  y = s n + attn(n);  m = norm(y);  s m + mlp(m)            s = sqrt(2 * 28)
    the context, [gMASK] included, sees itself in both directions; from <sop> on tokens see what is before them

So every written token has the place of [gMASK], and both axes grow by one from token to token.
Traps: `query_key_value` holds q, k and v of one head next to each other in the hub's layout, and one behind the other
in that of SwissArmyTransformer; the hub's class rounds the frequencies to half precision and has s = sqrt(56) at any
depth; each half of a head has halves of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from polymodal.backbones.decoder import Decoder, DecoderBlockConfig, DecoderConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec, position_ids_from_mask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.moe import RouterLogits
from polymodal.nn.norm import LayerNormConfig
from polymodal.nn.rope import Rope, RopeConfig
from polymodal.nn.segments import counted_within
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split
from polymodal.weights.operations import AxisOrder

PUBLISHED_DEPTH = 28
FIXED = {"position_encoding_2d": True, "pre_seq_len": None, "prefix_projection": False, "quantization_bit": 0}


@dataclass(frozen=True, kw_only=True)
class GLMRopeConfig(RopeConfig):
    """`rounded`: frequencies as half precision has them."""

    rounded: bool = False

    def build(self) -> GLMRope:
        return GLMRope(self)


class GLMRope(Rope):
    """See `GLMRopeConfig`."""

    config: GLMRopeConfig

    def _initial(self) -> tuple[Tensor, float]:
        frequencies, factor = super()._initial()
        return (frequencies.half().double() if self.config.rounded else frequencies), factor


@dataclass(frozen=True, kw_only=True)
class GLMConfig(DecoderConfig):
    """A DecoderConfig that builds a `GLM`."""

    def build(self) -> GLM:
        return GLM(self)


class GLM(Decoder):
    """See the module docstring."""

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        mask: MaskSpec | None = None,
        token_types: Tensor | None = None,
        context: Any = None,
        cache: KVCache | None = None,
        router_logits: RouterLogits | None = None,
    ) -> Tensor:
        """As `Decoder.forward`; position_ids [2, B, T].  A prompt goes in one piece: a second one would be causal."""
        if position_ids.dim() != 3 or len(position_ids) != 2:
            raise ConfigError(f"chatglm: expected position_ids [2, B, T], found {list(position_ids.shape)}")
        places, written = position_ids
        if cache is None or not cache.length:
            two_way = (written == 0).long().expand(len(inputs_embeds), -1)
            mask = replace(MaskSpec() if mask is None else mask, two_way=two_way)
        axes = torch.stack((places - written, written))
        return super().forward(inputs_embeds, axes, mask, token_types, context, cache, router_logits)


@dataclass(frozen=True, kw_only=True)
class GLMPositions:
    """A batch -> its `position_ids` [2, B, T].  start: the id of <sop>; rows without one are context to their end."""

    start: int
    input_names: frozenset[str] = frozenset()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Adds `position_ids`."""
        ids, mask, segments = batch["input_ids"], batch.get("attention_mask"), batch.get("segments")
        real = torch.ones_like(ids) if mask is None else mask.long()
        begun = (ids == self.start).long() * real
        behind = begun.cumsum(-1)
        behind = behind if segments is None else counted_within(behind, begun, segments)
        steps = (behind > 0).long() * real
        written = steps.cumsum(-1)
        written = written if segments is None else counted_within(written, steps, segments)
        return {"position_ids": torch.stack((position_ids_from_mask(real, segments), written))}


def parse_config(config: Mapping[str, Any], hub: bool = True) -> GLMConfig:
    """The decoder that a config.json of model_type chatglm describes; ConfigError for what is not supported.

    hub: as the hub's class has it, with rounded frequencies and the scale of 28 blocks however many there are; False:
    as SwissArmyTransformer.
    """
    for name, value in FIXED.items():
        if (found := config.get(name, value)) != value and (found or value):
            raise ConfigError(f"chatglm: {name} {found!r} is not supported; expected {value!r}")
    width, heads, depth = (config.get(name, default) for name, default in
                           (("hidden_size", 4096), ("num_attention_heads", 32), ("num_layers", 28)))  # fmt: skip
    if width % (4 * heads):
        raise ConfigError(f"chatglm: hidden_size {width} must be a multiple of 4 * num_attention_heads {heads}")
    norm, quarter = LayerNormConfig(eps=config.get("layernorm_epsilon", 1e-5)), width // heads // 4
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=config.get("inner_hidden_size", 16384), activation="gelu_tanh"),
        norm=norm, order="residual", residual_scale=math.sqrt(2 * (PUBLISHED_DEPTH if hub else depth)),
    )  # fmt: skip
    rope = GLMRopeConfig(head_dim=width // heads, sections=(quarter, quarter), restart=True, rounded=hub)
    return GLMConfig(
        vocab_size=config.get("vocab_size", 130528), width=width, blocks=(block,) * depth, norm=norm, rope=rope,
        max_length=config.get("max_sequence_length", 2048),
    )  # fmt: skip


_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm", "attention.dense": "attn.o_proj",
    "mlp.dense_h_to_4h": "mlp.up_proj", "mlp.dense_4h_to_h": "mlp.down_proj",
}  # fmt: skip


def hf_keys(config: DecoderConfig, grouped: bool = True, head: str = "lm_head.weight") -> KeyTable:
    """The hub's layout -> a `GLM` of `config`.  grouped: q, k and v of each head together; head: the head's name."""
    heads, layer = config.blocks[0].attention.heads, "transformer.layers.{}"
    rows: list[Row] = [
        rename("transformer.word_embeddings.weight", "embed_tokens.weight"),
        rename(head, "lm_head.weight"),
        drop(f"{layer}.attention.rotary_emb.inv_freq"),
    ]
    turned = (AxisOrder(heads),)
    for leaf in ("weight", "bias"):
        rows.append(rename(f"transformer.final_layernorm.{leaf}", f"norm.{leaf}"))
        rows += [rename(f"{layer}.{theirs}.{leaf}", f"blocks.{{}}.{ours}.{leaf}") for theirs, ours in _NAMES.items()]
        targets = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
        rows.append(split(f"{layer}.attention.query_key_value.{leaf}", targets, groups=heads if grouped else 1,
                          each=(turned, turned, ())))  # fmt: skip
    return KeyTable(tuple(rows))
