"""Unified-IO's encoder-decoder: T5 blocks whose scores get a bias from where two tokens stand, words or patches.

Paper: Unified-IO (arXiv 2206.08916).  Code: allenai/unified-io-inference `uio/network.py`.

    place of a token: words 0, 1, ... below `words`;  patches (or codes that are written) from `words` on, row by row
    embedding + its place + its segment -> RMS norm -> blocks;  scores + bias(place of query, place of key)
    bias = T5's buckets between words | buckets of a quadrant between patches | 0 between the two
           + q(norm(place)) . k(norm(place)) / sqrt(width / heads)

Traps: the second part is scaled by width / heads, not by the size of a head; cross-attention has no bias, although the
files hold `cross_position_*_linear` for one; the buckets' logarithms get an epsilon, T5's do not; codes that are
written have 16 in a row whatever the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, Source
from polymodal.errors import PromptError
from polymodal.nn.cache import KVCache
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.norm import RMSNormConfig

EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class PlacesConfig:
    """Places of one side.  words: how many of text; patches: how many of a picture, `columns` in a row.

    segments: rows of the table of segments, of which two are used.
    """

    words: int
    patches: int
    columns: int
    heads: int
    head_dim: int
    two_way: bool
    segments: int = 2
    buckets: int = 32
    max_distance: int = 128
    grid_buckets: int = 8
    grid_distance: int = 20

    def build(self, width: int) -> Places:
        return Places(self, width)


@dataclass(frozen=True, kw_only=True)
class UnifiedIOConfig(EncoderDecoderConfig):
    """`encoder_places`, `decoder_places`: what is learned of places on each side."""

    encoder_places: PlacesConfig
    decoder_places: PlacesConfig

    def build(self) -> UnifiedIOBackbone:
        return UnifiedIOBackbone(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class BiasedMask(MaskSpec):
    """A rule of visibility with `bias [B, H, T, S]` for the scores."""

    bias: Tensor

    def prepare(self, q_len: int, k_len: int, device: torch.device | str | None = None) -> PreparedMask:
        return super().prepare(q_len, k_len, device).biased(self.bias, q_len)


class Places(nn.Module):
    """Tables of one side; see the module docstring."""

    def __init__(self, config: PlacesConfig, width: int) -> None:
        super().__init__()
        self.config, inner = config, config.heads * config.head_dim
        self.scale = (width / config.heads) ** -0.5
        self.embedding = nn.Embedding(config.words + config.patches, width)
        self.segments = nn.Embedding(config.segments, width)
        self.norm = RMSNormConfig().build(width)
        self.q_proj = LinearConfig().build(width, inner, False)
        self.k_proj = LinearConfig().build(width, inner, False)
        self.word_bias = nn.Parameter(torch.randn(config.heads, config.buckets) * 0.02)
        self.patch_bias = nn.Parameter(torch.randn(config.heads, 4 * config.grid_buckets**2) * 0.02)
        for table in (self.embedding, self.segments):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Embeddings [B, T, D] with their places int [B, T] and segments added."""
        return x + self.embedding(places) + self.segments((places >= self.config.words).long())

    def bias(self, query: Tensor, key: Tensor) -> Tensor:
        """Places int [B, T] and [B, S] -> what is added to the scores [B, H, T, S]."""
        q, k = (
            linear(self.norm(self.embedding(places))).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)
            for linear, places in ((self.q_proj, query), (self.k_proj, key))
        )
        query, key, first = query[:, :, None], key[:, None], self.config.words
        words = self.word_bias[:, self._word_bucket(key - query)]
        patches = self.patch_bias[:, self._patch_bucket(query - first, key - first)]
        both, neither = (query >= first) & (key >= first), (query < first) & (key < first)
        near = torch.where(both, patches, torch.where(neither, words, 0.0))
        return near.transpose(0, 1) + q @ k.transpose(-1, -2) * self.scale

    def _word_bucket(self, distance: Tensor) -> Tensor:
        """int64 key minus query -> bucket."""
        count = self.config.buckets // 2 if self.config.two_way else self.config.buckets
        if self.config.two_way:
            return (distance > 0).long() * count + _bucket(distance.abs(), count, self.config.max_distance, count // 2)
        return _bucket((-distance).clamp_min(0), count, self.config.max_distance, count // 2)

    def _patch_bucket(self, query: Tensor, key: Tensor) -> Tensor:
        """Two patches -> bucket: a quadrant, and buckets of both distances."""
        side, count = self.config.columns, self.config.grid_buckets
        x, y = query % side - key % side, query // side - key // side
        quadrant = ((x <= 0) & (y < 0)) * 3 + ((x < 0) & (y >= 0)) * 2 + ((x > 0) & (y <= 0)) * 1
        across, down = (_bucket(each.abs(), count, self.config.grid_distance, count // 2) for each in (x, y))
        return quadrant * count**2 + across + count * down


def _bucket(size: Tensor, count: int, longest: int, exact: int) -> Tensor:
    """Distances below `exact` each by itself, larger ones by their logarithm."""
    steps = torch.log(size.clamp_min(0).float() / exact + EPSILON) / math.log(longest / exact) * (count - exact)
    return torch.where(size < exact, size, (exact + steps.long()).clamp_max(count - 1))


class UnifiedIOBackbone(EncoderDecoder):
    """See the module docstring; called as an EncoderDecoder, with places as position ids on both sides."""

    config: UnifiedIOConfig  # type: ignore[assignment]

    def __init__(self, config: UnifiedIOConfig) -> None:
        super().__init__(config)
        width = config.width
        self.encoder_places = config.encoder_places.build(width)
        self.decoder_places = config.decoder_places.build(width)
        self.words_norm, self.patches_norm, self.answer_norm = (RMSNormConfig().build(width) for _ in range(3))

    def encode(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Source:
        """Read `inputs_embeds [B, S, D]` at places int [B, S] (words 0, 1, ... where there are none)."""
        places = known_places(position_ids, inputs_embeds, self.encoder_places.embedding.num_embeddings)
        x = self.encoder_places(inputs_embeds, places)
        patches = (places >= self.config.encoder_places.words)[..., None]
        x = torch.where(patches, self.patches_norm(x), self.words_norm(x))
        mask = BiasedMask(causal=False, attention_mask=attention_mask, bias=self.encoder_places.bias(places, places))
        return Source(features=self.encoder(x, mask), mask=attention_mask)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor | None = None,
        mask: MaskSpec | None = None,
        token_types: Tensor | None = None,
        context: Any = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The decoder's hidden states [B, T, D]; position_ids: the places of its tokens int [B, T]."""
        places = known_places(position_ids, inputs_embeds, self.decoder_places.embedding.num_embeddings)
        mask, held = MaskSpec() if mask is None else mask, 0 if cache is None else cache.length
        keys = earlier_places(places, held, mask.attention_mask, self.config.decoder_places.words)
        biased = BiasedMask(causal=mask.causal, attention_mask=mask.attention_mask,
                            bias=self.decoder_places.bias(places, keys))  # fmt: skip
        x = self.answer_norm(self.decoder_places(inputs_embeds, places))
        return super().forward(x, mask=biased, context=context, cache=cache)


def known_places(position_ids: Tensor | None, embeds: Tensor, most: int) -> Tensor:
    """Places of all rows, words 0, 1, ... where none are given.  Raises PromptError for one outside of the table."""
    rows, count = embeds.shape[:2]
    if position_ids is None:
        position_ids = torch.arange(count, device=embeds.device)[None]
    if position_ids.device.type == "cpu" and not bool((position_ids < most).all()):
        raise PromptError(
            f"Unified-IO: place {int(position_ids.max())} of a token, the table has {most}; shorten the text"
        )
    return position_ids.expand(rows, count)


def earlier_places(places: Tensor, held: int, mask: Tensor | None, words: int) -> Tensor:
    """The places int [B, held + T] of all tokens, of which a cache holds the first: words in order, then codes."""
    if not held:
        return places
    total = held + places.shape[1]
    columns = torch.arange(total, device=places.device)[None]
    last = places[:, -1:]
    codes = torch.where(last >= words, last - words + 1, 0)  # how many of the last columns are codes
    real = torch.ones_like(columns) if mask is None else mask.long()
    text = (real.cumsum(-1) - 1).clamp_min(0).expand(len(places), total)
    return torch.where(columns >= total - codes, words + columns - (total - codes), text)


def config_of(config: EncoderDecoderConfig, encoder: PlacesConfig, decoder: PlacesConfig) -> UnifiedIOConfig:
    """T5's config with the places of both sides; relative positions of its stacks are replaced by them."""
    return UnifiedIOConfig(
        vocab_size=config.vocab_size,
        width=config.width,
        encoder=replace(config.encoder, bias=None),
        decoder=replace(config.decoder, bias=None),
        tied=config.tied,
        head_scale=config.head_scale,
        start_id=config.start_id,
        pad_id=config.pad_id,
        max_length=encoder.words + encoder.patches + decoder.words,  # of a question and its answer together
        encoder_places=encoder,
        decoder_places=decoder,
    )
