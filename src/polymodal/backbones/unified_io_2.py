"""Unified-IO 2's encoder-decoder: T5's blocks with rotary places in self- and cross-attention, and norms of q and k.

Paper: Unified-IO 2 (arXiv 2312.17172).  Code: allenai/unified-io-2.pytorch `uio2/{layers,model}.py`.

    place of a token: a word's number | row and column of a patch, of a frame's latents, of a code
    embedding + vector of its kind -> blocks; q and k: RMS norm of each head, then rotated by their places
    words: all pairs of dimensions by one number; grids: the first half of the pairs by rows, the second by columns

Traps: pairs are neighbouring dimensions; keys of cross-attention are rotated by the encoder's places; rows and columns
of a picture that is read are stretched onto the grid of one that is written.  The published torch code prepares sparse
patterns for codes and, as the Jax code, adds them only beside another bias, which neither has: every code sees all
before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderConfig,
    Source,
    Stack,
    StackBlock,
    StackBlockConfig,
    StackConfig,
)
from polymodal.backbones.unified_io import known_places
from polymodal.errors import PromptError
from polymodal.nn.attention import Attention, AttentionConfig
from polymodal.nn.cache import KVCache, LayerCache
from polymodal.nn.computed import computed_buffer
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.rope import Rotation, apply_rope


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Places of one kind of token: `rows` numbers in a line (columns 0), or rows x columns, `scale` apart."""

    name: str
    rows: int
    columns: int = 0
    scale: float = 1.0

    @property
    def count(self) -> int:
        return self.rows * max(self.columns, 1)

    def angles(self, head_dim: int, base: float = 10000.0) -> Tensor:
        """float32 [count, head_dim / 2]."""
        size = head_dim // 2 if self.columns else head_dim
        steps = 1.0 / (base ** (torch.arange(0, size, 2).float() / size))
        lines = [torch.arange(each).float() * self.scale for each in (self.rows, self.columns) if each]
        places = torch.cartesian_prod(*lines).reshape(self.count, -1)
        return (places[:, :, None] * steps).flatten(1)


class Places(nn.Module):
    """The angles of all kinds, one behind another, and a learned vector for each kind."""

    angles: Tensor
    kind: Tensor

    def __init__(self, kinds: Sequence[Kind], width: int, head_dim: int) -> None:
        super().__init__()
        self.firsts, start = {}, 0
        for each in kinds:
            self.firsts[each.name] = start
            start += each.count
        self.count = start
        counts = torch.tensor([each.count for each in kinds], device="cpu")
        computed_buffer(self, "angles", lambda: torch.cat([each.angles(head_dim) for each in kinds]), persistent=False)
        computed_buffer(self, "kind", lambda: torch.arange(len(kinds)).repeat_interleave(counts), persistent=False)
        self.vectors = nn.ParameterDict({each.name: nn.Parameter(torch.randn(width) * 0.02) for each in kinds})

    def forward(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """int [B, T] -> cos, sin [B, 1, T, E]."""
        angles = self.angles[places][:, None].float()
        cos, sin = angles.cos().repeat_interleave(2, -1), angles.sin()
        return cos, torch.stack((-sin, sin), -1).flatten(-2)

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        """Embeddings [B, T, D] with the vector of each token's kind."""
        vectors = torch.stack([self.vectors[name] for name in self.firsts])  # a ParameterDict has an order of its own
        return x + vectors[self.kind[places]].to(x.dtype)


class RotatedSource(Attention):
    """Cross-attention whose queries and keys are rotated by places of their own; rope: cos, sin of both."""

    def _inputs(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None,
        rope: Rotation | None,
        cache: LayerCache | None,
        source: Tensor | None,
        token_types: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, PreparedMask | None]:
        assert rope is not None and not isinstance(mask, MaskSpec)
        known = cache is not None and cache.source is not None
        k, v = self._source(source, cache)
        if not known:
            k = apply_rope(k, *rope[-2:], True)
            if cache is not None:
                cache.source = k, v
        return apply_rope(self._heads(self.q_proj(x), self.q_norm), *rope[:2], True), k, v, mask


@dataclass(frozen=True, kw_only=True)
class RotatedSourceConfig(AttentionConfig):
    def build(self) -> RotatedSource:
        return RotatedSource(self)


@dataclass(frozen=True, kw_only=True)
class PlacedBlockConfig(StackBlockConfig):
    def build(self) -> PlacedBlock:
        return PlacedBlock(self)


@dataclass(frozen=True, kw_only=True)
class PlacedStackConfig(StackConfig):
    def build(self, width: int) -> PlacedStack:
        return PlacedStack(self, width)


class PlacedBlock(StackBlock):
    """A block of T5 whose attentions are rotated."""

    def rotated(
        self,
        x: Tensor,
        mask: PreparedMask,
        rope: Rotation,
        source: PlacedSource | None,
        source_mask: PreparedMask | None,
        cache: LayerCache | None,
    ) -> Tensor:
        """As `forward`; rope: of these tokens."""
        x = x + self.attn(self.attn_norm(x), mask, rope=rope, cache=cache)
        if self.cross is not None and self.cross_norm is not None and source is not None:
            both: Any = (*rope[:2], *source.rope)
            x = x + self.cross(self.cross_norm(x), source_mask, rope=both, cache=cache, source=source.features)
        return x + self.mlp(self.mlp_norm(x))


class PlacedStack(Stack):
    """All blocks of one side."""

    def rotated(
        self,
        x: Tensor,
        mask: MaskSpec,
        rope: Rotation,
        source: PlacedSource | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """As `forward`; rope: of these tokens."""
        count = x.shape[1]
        prepared = mask.prepare(count, count if cache is None else cache.length + count, x.device)
        source_mask = None
        if source is not None and source.mask is not None:
            spec = MaskSpec(causal=False, attention_mask=source.mask)
            source_mask = spec.prepare(1, source.mask.shape[1], x.device)
        blocks: Any = self.blocks
        for index, block in enumerate(blocks):
            layer = None if cache is None else cache.layer(index)
            x = block.rotated(x, prepared, rope, source, source_mask, layer)
        if cache is not None:
            cache.advance(count)
        return self.norm(x)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedSource(Source):
    """A Source with the rotation of its tokens, cos and sin [B, 1, S, E]."""

    rope: tuple[Tensor, Tensor]

    def repeated(self, times: int) -> PlacedSource:
        """Every row `times` times."""
        found = super().repeated(times)
        cos, sin = (each.repeat_interleave(times, 0) for each in self.rope)
        return PlacedSource(features=found.features, mask=found.mask, rope=(cos, sin))


@dataclass(frozen=True, kw_only=True)
class UnifiedIO2Config(EncoderDecoderConfig):
    """The kinds of tokens of each side, in the order of their places."""

    encoder_kinds: tuple[Kind, ...]
    decoder_kinds: tuple[Kind, ...]

    def build(self) -> UnifiedIO2Backbone:
        return UnifiedIO2Backbone(self)


class UnifiedIO2Backbone(EncoderDecoder):
    """See the module docstring; position ids are places on both sides."""

    config: UnifiedIO2Config  # type: ignore[assignment]
    encoder: PlacedStack
    decoder: PlacedStack

    def __init__(self, config: UnifiedIO2Config) -> None:
        super().__init__(config)
        size = config.decoder.blocks[0].attention.size
        self.encoder_places = Places(config.encoder_kinds, config.width, size)
        self.decoder_places = Places(config.decoder_kinds, config.width, size)

    def encode(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> PlacedSource:
        """Read `inputs_embeds [B, S, D]` at places int [B, S] (words 0, 1, ... where there are none)."""
        places = known_places(position_ids, inputs_embeds, self.encoder_places.count)
        rope = self.encoder_places(places)
        x = self.encoder_places.embed(inputs_embeds, places)
        features = self.encoder.rotated(x, MaskSpec(causal=False, attention_mask=attention_mask), rope)
        return PlacedSource(features=features, mask=attention_mask, rope=rope)

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
        if not isinstance(context, PlacedSource):
            raise PromptError("encoder-decoder: the decoder needs what `encode` gave as its context")
        places = known_places(position_ids, inputs_embeds, self.decoder_places.count)
        source = context.repeated(len(inputs_embeds) // len(context.features))
        x = self.decoder_places.embed(inputs_embeds, places)
        rule = MaskSpec() if mask is None else mask
        return self.decoder.rotated(x, rule, self.decoder_places(places), source, cache)
