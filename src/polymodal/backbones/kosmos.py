"""KOSMOS decoders (arXiv 2302.14045, 2306.14824): Magneto blocks (arXiv 2210.06423) under sinusoidal positions or xPos.

    LayerNorm -> attention, normed before its output projection -> LayerNorm -> MLP, normed before its second linear

Biases in every linear but the tied head.
Traps: what enters is multiplied by sqrt(width), spliced image features too (`input_scale`); positions count the
tokens that are not the padding id, and stand in the table behind the padding's row, which is zero; the sines fill
the first half of a position's vector and the cosines the second.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder, DecoderBlockConfig, DecoderConfig, head_row
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.linear import NormedLinearConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.nn.rope import RopeConfig
from polymodal.nn.segments import counted_within
from polymodal.weights.keytable import KeyTable, Row, drop, rename


@dataclass(frozen=True, kw_only=True)
class SinusoidalPositionsConfig:
    """Fixed sines and cosines read at `position + offset`; the row `offset - 1` belongs to padding and is zero."""

    offset: int = 2

    def build(self, width: int) -> "SinusoidalPositions":
        """A module without weights."""
        return SinusoidalPositions(width, self.offset)


class SinusoidalPositions(nn.Module):
    """`position_ids [B, T] -> [B, T, D]`; position -1 gives zeros."""

    def __init__(self, width: int, offset: int) -> None:
        super().__init__()
        self.width, self.offset = width, offset

    def forward(self, position_ids: Tensor) -> Tensor:
        """int64 [B, T] -> float32 [B, T, D]."""
        half = self.width // 2
        steps = torch.arange(half, device=position_ids.device).float()
        rates = torch.exp(steps * -(math.log(10000) / (half - 1)))
        angles = (position_ids + self.offset)[..., None].float() * rates
        table = torch.cat((angles.sin(), angles.cos()), -1)
        table = nn.functional.pad(table, (0, self.width % 2))
        return torch.where((position_ids < 0)[..., None], 0.0, table)


def positions_of(input_ids: Tensor, padding: int, segments: Tensor | None = None) -> Tensor:
    """Positions [B, T] that count from 0 the tokens which are not the padding id; that id itself gets -1.

    segments [B, T]: positions begin at 0 again with every segment of a packed row.
    """
    real = (input_ids != padding).long()
    count = real.cumsum(-1)
    if segments is not None:
        count = counted_within(count, real, segments)
    return count * real - 1


@dataclass(frozen=True, kw_only=True)
class CountedPositions:
    """A batch -> its `position_ids`, counted by the ids themselves and not by the attention mask."""

    padding: int
    input_names: frozenset[str] = frozenset()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Adds `position_ids` [B, T]."""
        return {"position_ids": positions_of(batch["input_ids"], self.padding, batch.get("segments"))}

    def next_positions(self, tokens: Tensor, held: int) -> Tensor:
        """Positions [B, 1] of generated `tokens` [B, 1] behind `held` cached ones.

        As published: all that is held counts, padding too, and a padding id that is written has no place.
        """
        return torch.where(tokens == self.padding, -1, held)


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a published `text_config` describes, with the library's defaults."""
    width, heads = config.get("embed_dim", 2048), config.get("attention_heads", 32)
    if width % heads:
        raise ConfigError(f"kosmos: embed_dim {width} must be a multiple of attention_heads {heads}")
    if config.get("pad_token_id", 1) is None:
        raise ConfigError("kosmos: pad_token_id null is not supported; positions are counted by it")
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-5))
    normed = NormedLinearConfig(norm=norm)
    attention = AttentionConfig(
        width=width, heads=heads, qkv_bias=True, out_bias=True, linears=AttentionLinears(o=normed)
    )
    mlp = MLPConfig(
        width=width,
        ffn_width=config.get("ffn_dim", 8192),
        activation=config.get("activation_function", "gelu"),
        down=normed,
    )
    return DecoderConfig(
        vocab_size=config.get("vocab_size", 65037),
        width=width,
        blocks=(DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm),) * config.get("layers", 24),
        norm=norm,
        positions=SinusoidalPositionsConfig(offset=config.get("pad_token_id", 1) + 1),
        input_scale=math.sqrt(width) if config.get("scale_embedding", True) else None,
        tied=bool(config.get("tie_word_embeddings", True)),
        max_length=config.get("max_position_embeddings", 2048),
    )


def with_xpos(config: DecoderConfig, base: float) -> DecoderConfig:
    """The decoder with xPos (arXiv 2212.10554) in place of sines, as in KOSMOS-1's paper and torchscale."""
    block = config.blocks[0]
    turned = replace(block, attention=replace(block.attention, interleaved=True))
    rope = RopeConfig(head_dim=block.attention.size, interleaved=True, xpos_base=base)
    return replace(config, blocks=(turned,) * config.depth, positions=None, rope=rope)


def magneto(decoder: Decoder) -> Decoder:
    """The fresh weights with which Magneto's decoders start (arXiv 2210.06423, figure 2), written in place.

    Xavier's normal numbers; all but queries and keys times sqrt(log(2 * blocks)).
    """
    gain = math.sqrt(math.log(2 * len(decoder.blocks)))
    for name, weight in decoder.blocks.named_parameters():
        if weight.dim() == 2:
            is_plain = name.endswith(("q_proj.weight", "k_proj.weight"))
            nn.init.xavier_normal_(weight, 1.0 if is_plain else gain)
    return decoder


_LAYER = "model.layers.{}"
_PAIRS = (
    *((f"{_LAYER}.self_attn.{name}_proj", f"blocks.{{}}.attn.{name}_proj") for name in "qkv"),
    (f"{_LAYER}.self_attn.inner_attn_ln", "blocks.{}.attn.o_proj.norm"),
    (f"{_LAYER}.self_attn.out_proj", "blocks.{}.attn.o_proj.linear"),
    (f"{_LAYER}.self_attn_layer_norm", "blocks.{}.attn_norm"),
    (f"{_LAYER}.ffn.fc1", "blocks.{}.mlp.up_proj"),
    (f"{_LAYER}.ffn.ffn_layernorm", "blocks.{}.mlp.down_proj.norm"),
    (f"{_LAYER}.ffn.fc2", "blocks.{}.mlp.down_proj.linear"),
    (f"{_LAYER}.final_layer_norm", "blocks.{}.mlp_norm"),
    ("model.layer_norm", "norm"),
)


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout (without `text_model.`) -> a Decoder of `config`; the unused cross-attention is dropped."""
    rows: list[Row] = [
        rename(f"{source}.{leaf}", f"{target}.{leaf}") for source, target in _PAIRS for leaf in ("weight", "bias")
    ]
    head = head_row("lm_head.weight", "model.embed_tokens.weight", tied=config.tied)
    return KeyTable(
        (
            rename("model.embed_tokens.weight", "embed_tokens.weight"),
            drop("model.embed_positions.weights"),
            drop(f"{_LAYER}.encoder_attn.**"),
            drop(f"{_LAYER}.encoder_attn_layer_norm.**"),
            *rows,
            head,
        )
    )
