"""The encoder-decoder backbone: a two-way stack reads the prompt, a causal stack writes the answer (T5, Flan-T5).

    inputs_embeds [B,S,D] -> encoder blocks -> norm -> Source                                    (encode)
    decoder embeds [B,T,D] -> blocks: causal self-attention, cross-attention to the Source, feed-forward -> norm
        -> hidden [B,T,D]  (forward, with the same arguments as `decoder.Decoder`) -> head -> logits [B,T,V]

The Source is the decoder's `context`: it is made once and its keys and values are kept in the cache, so later steps
run the decoder alone.  One embedding serves both stacks.
Traps: `encode` is a call of its own, `forward` never runs the encoder; relative positions (`bias`) belong to a whole
stack and are added in each of its blocks; cross-attention has none; the head may scale the hidden states first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import KVCache, LayerCache
from polymodal.nn.linear import Linear, linear
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import NormConfig, RMSNormConfig
from polymodal.nn.relative import RelativePositionsConfig


@dataclass(frozen=True, kw_only=True)
class StackBlockConfig:
    """One pre-norm block; `norm` fills all norm slots.  `cross`: an attention with a `source_width`, decoder only."""

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=RMSNormConfig)
    cross: AttentionConfig | None = None

    def build(self) -> StackBlock:
        return StackBlock(self)


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The blocks of one side, the norm after them, and what is added to the scores of all of them."""

    blocks: tuple[StackBlockConfig, ...]
    norm: NormConfig = field(default_factory=RMSNormConfig)
    bias: RelativePositionsConfig | None = None

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError("encoder-decoder: each stack needs at least one block")

    def build(self, width: int) -> Stack:
        return Stack(self, width)


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """`tied`: the head reads the embedding's weight.  `head_scale` multiplies what enters the head.

    `start_id`: the token every answer starts with.  `pad_id`: what fills it up.
    `max_length`: most tokens of an answer.
    """

    vocab_size: int
    width: int
    encoder: StackConfig
    decoder: StackConfig
    tied: bool = False
    head_scale: float | None = None
    start_id: int = 0
    pad_id: int = 0
    max_length: int = 8192

    def __post_init__(self) -> None:
        if any(block.cross is None for block in self.decoder.blocks):
            raise ConfigError("encoder-decoder: every block of the decoder needs cross-attention")

    def build(self) -> EncoderDecoder:
        return EncoderDecoder(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What the decoder reads: `features [B, S, D]` and which of them are real, `mask [B, S]` or None for all."""

    features: Tensor
    mask: Tensor | None = None

    def repeated(self, times: int) -> Source:
        """Every row `times` times."""
        if times == 1:
            return self
        mask = None if self.mask is None else self.mask.repeat_interleave(times, 0)
        return Source(features=self.features.repeat_interleave(times, 0), mask=mask)


class StackBlock(nn.Module):
    """`x + attn(norm(x))`, `x + cross(norm(x), source)`, `x + mlp(norm(x))`; `[B, T, D] -> [B, T, D]`."""

    def __init__(self, config: StackBlockConfig) -> None:
        super().__init__()
        width = config.attention.width
        self.attn_norm = config.norm.build(width)
        self.attn = config.attention.build()
        self.cross_norm = None if config.cross is None else config.norm.build(width)
        self.cross = None if config.cross is None else config.cross.build()
        self.mlp_norm = config.norm.build(width)
        self.mlp = config.mlp.build()

    def forward(
        self,
        x: Tensor,
        mask: PreparedMask,
        source: Tensor | None = None,
        source_mask: PreparedMask | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        x = x + self.attn(self.attn_norm(x), mask, cache=cache)
        if self.cross is not None and self.cross_norm is not None:
            x = x + self.cross(self.cross_norm(x), source_mask, cache=cache, source=source)
        return x + self.mlp(self.mlp_norm(x))


class Stack(nn.Module):
    """All blocks of one side and the norm after them."""

    def __init__(self, config: StackConfig, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.norm = config.norm.build(width)
        self.bias = None if config.bias is None else config.bias.build()

    def forward(self, x: Tensor, mask: MaskSpec, source: Source | None = None, cache: KVCache | None = None) -> Tensor:
        count = x.shape[1]
        total = count if cache is None else cache.length + count
        prepared = mask.prepare(count, total, x.device)
        if self.bias is not None:
            prepared = prepared.biased(self.bias(count, total).to(x.dtype), count)
        source_mask = None
        if source is not None and source.mask is not None:
            spec = MaskSpec(causal=False, attention_mask=source.mask)
            source_mask = spec.prepare(1, source.mask.shape[1], x.device)
        for index, block in enumerate(self.blocks):
            layer = None if cache is None else cache.layer(index)
            x = block(x, prepared, None if source is None else source.features, source_mask, layer)
        if cache is not None:
            cache.advance(count)
        return self.norm(x)


class EncoderDecoder(nn.Module):
    """See the module docstring.  `config` is the EncoderDecoderConfig it was built from."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.encoder: Stack = config.encoder.build(config.width)
        self.decoder: Stack = config.decoder.build(config.width)
        self.lm_head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)

    def embed(self, input_ids: Tensor) -> Tensor:
        """`[B, T]` int64 -> `[B, T, D]`, for either side."""
        return self.embed_tokens(input_ids)

    def encode(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Source:
        """Read `inputs_embeds [B, S, D]`; `attention_mask [B, S]`, 1 = real."""
        features = self.encoder(inputs_embeds, MaskSpec(causal=False, attention_mask=attention_mask))
        return Source(features=features, mask=attention_mask)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor | None = None,
        mask: MaskSpec | None = None,
        token_types: Tensor | None = None,
        context: Any = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The decoder's hidden states `[B, T, D]` after its norm.

        context: the Source; where it has fewer rows than the embeddings, each counts for several in a row (beams).
        position_ids and token_types are not used; positions are counted from the cache.
        cache: written in place and advanced by T.
        """
        if not isinstance(context, Source):
            raise PromptError("encoder-decoder: the decoder needs what `encode` gave as its context")
        times = len(inputs_embeds) // len(context.features)
        return self.decoder(inputs_embeds, MaskSpec() if mask is None else mask, context.repeated(times), cache)

    def head(self, hidden: Tensor) -> Tensor:
        """`[..., D] -> logits [..., V]`"""
        if self.config.head_scale is not None:
            hidden = hidden * self.config.head_scale
        return linear(hidden, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)

    def new_cache(self, batch: int, capacity: int | None = None) -> KVCache:
        """An empty cache of the decoder for `batch` rows of up to `capacity` tokens (default `max_length`)."""
        attention = self.config.decoder.blocks[0].attention
        return KVCache.allocate(
            layers=len(self.decoder.blocks),
            batch=batch,
            kv_heads=attention.key_heads,
            head_dim=attention.size,
            capacity=self.config.max_length if capacity is None else capacity,
            dtype=self.embed_tokens.weight.dtype,
            device=self.embed_tokens.weight.device,
        )


def shifted_right(labels: Tensor, start_id: int, pad_id: int) -> Tensor:
    """What the decoder reads when it is to write `labels [B, T]`: one later, `start_id` first, -100 as `pad_id`."""
    start = torch.full_like(labels[:, :1], start_id)
    return torch.cat((start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad_id)), 1)
