"""Whisper's text decoder (arXiv:2212.04356 §2.2): the half of an encoder-decoder that writes the transcript.

    input_ids [B, T] -> embed -> + learned positions -> depth x (causal attention, cross-attention to the audio,
        MLP; each after a LayerNorm) -> LayerNorm -> hidden [B, T, D] -> head, tied to embed -> logits [B, T, V]

Keys and values of the audio are computed once per recording and kept in its context.  Several rows may share one
recording (beams, samples): B = N * G rows, row r listens to recording r // G.
Traps: cross-attention comes after self-attention; no bias on keys; at most `positions` tokens, start sequence and
previous text included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import PromptError
from polymodal.nn.attention import Attention, AttentionConfig, AttentionLinears
from polymodal.nn.cache import KVCache, LayerCache
from polymodal.nn.linear import LinearConfig, linear
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable

_ROUND = 32


@dataclass(frozen=True, kw_only=True)
class WhisperDecoderConfig:
    """`positions`: longest sequence. `context_width`: width of the encoder, None = the same."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    positions: int = 448
    ffn_width: int | None = None
    context_width: int | None = None

    def build(self) -> WhisperDecoder:
        return WhisperDecoder(self)


class AudioContext:
    """What the decoder listens to: `features [N, S, D']` and, once a layer has read them, its keys and values.

    Made by `WhisperDecoder.listen`; one context serves any number of passes and caches over the same recordings.
    """

    def __init__(self, features: Tensor, layers: int) -> None:
        self.features = features
        # A cache without room for text: only the slots for the keys and values of the source are used.
        self._keys = KVCache.allocate(layers, features.shape[0], 1, 1, 0, features.dtype, features.device)

    @property
    def items(self) -> int:
        """Number of recordings."""
        return self.features.shape[0]

    def layer(self, index: int) -> LayerCache:
        return self._keys.layer(index)


class WhisperDecoderBlock(nn.Module):
    """`x + attn(norm(x))`, `x + cross(norm(x), context)`, `x + mlp(norm(x))`; `[B, T, D] -> [B, T, D]`."""

    def __init__(self, config: WhisperDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.attn_norm = LayerNormConfig().build(width)
        self.attn = _attention(width, config.heads, None)
        self.cross_norm = LayerNormConfig().build(width)
        self.cross = _attention(width, config.heads, config.context_width or width)
        self.mlp_norm = LayerNormConfig().build(width)
        self.mlp = MLPConfig(width=width, ffn_width=config.ffn_width or 4 * width).build()

    def forward(
        self, x: Tensor, mask: PreparedMask, context: AudioContext, layer: int, cache: LayerCache | None
    ) -> Tensor:
        """`layer`: which slot of the context is this block's."""
        x = x + self.attn(self.attn_norm(x), mask, cache=cache)
        # Rows of one recording become one long query: its keys are read once and never repeated.
        query = self.cross_norm(x).reshape(context.items, -1, x.shape[-1])
        x = x + self.cross(query, cache=context.layer(layer), source=context.features).reshape(x.shape)
        return x + self.mlp(self.mlp_norm(x))


def _attention(width: int, heads: int, source_width: int | None) -> Attention:
    linears = AttentionLinears(k=LinearConfig(bias=False))
    return AttentionConfig(
        width=width, heads=heads, qkv_bias=True, out_bias=True, source_width=source_width, linears=linears
    ).build()


class WhisperDecoder(nn.Module):
    """Autoregressive decoder over audio features; `embed`, `forward` and `head` are separate calls."""

    def __init__(self, config: WhisperDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.randn(config.positions, config.width) * 0.02)
        self.blocks = nn.ModuleList(WhisperDecoderBlock(config) for _ in range(config.depth))
        self.norm = LayerNormConfig().build(config.width)

    def embed(self, input_ids: Tensor) -> Tensor:
        """`[B, T]` int64 -> `[B, T, D]`, without positions."""
        return self.embed_tokens(input_ids)

    def listen(self, features: Tensor) -> AudioContext:
        """Context for `forward` from the encoder's `features [N, S, D']`."""
        return AudioContext(features, self.config.depth)

    def new_cache(self, batch: int, capacity: int | None = None) -> KVCache:
        """Cache for `batch` rows of at most `capacity` tokens (default and at most `positions`)."""
        config, weight = self.config, self.embed_tokens.weight
        room = min(capacity or config.positions, config.positions)
        head_dim = config.width // config.heads
        return KVCache.allocate(config.depth, batch, config.heads, head_dim, room, weight.dtype, weight.device)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor | None = None,
        mask: MaskSpec | None = None,
        *,
        context: AudioContext,
        cache: KVCache | None = None,
    ) -> Tensor:
        """`inputs_embeds [B, T, D]` over N recordings, B a multiple of N -> hidden `[B, T, D]` after the norm.

        `position_ids [B, T]` default to the T places behind the cache, `mask` to causal.
        Raises PromptError beyond the last position or when the rows do not divide among the recordings.
        """
        rows, steps, _ = inputs_embeds.shape
        end = steps if cache is None else cache.length + steps
        if end > self.config.positions:
            raise PromptError(
                f"Whisper decoder: {end} tokens exceed its {self.config.positions} positions; shorten the prompt"
            )
        if rows % context.items:
            raise PromptError(f"Whisper decoder: {rows} rows cannot share {context.items} recordings evenly")
        x = inputs_embeds + self.positions[slice(end - steps, end) if position_ids is None else position_ids]
        prepared = (mask or MaskSpec()).prepare(steps, end, x.device)
        for index, block in enumerate(self.blocks):
            x = block(x, prepared, context, index, None if cache is None else cache.layer(index))
        if cache is not None:
            cache.advance(steps)
        return self.norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """`[..., D]` -> logits `[..., V]`, by the embedding's own weights."""
        weight = self.embed_tokens.weight
        # The fast kernel for one row wants a round number of outputs, and no published vocabulary has one.
        whole = weight.shape[0] // _ROUND * _ROUND
        return torch.cat((linear(hidden, weight[:whole]), F.linear(hidden, weight[whole:])), dim=-1)


def _sized(vocab_size: int, width: int, depth: int, heads: int) -> WhisperDecoderConfig:
    return WhisperDecoderConfig(vocab_size=vocab_size, width=width, depth=depth, heads=heads)


# English-only vocabulary 51,864; multilingual 51,865; with Cantonese 51,866.
WHISPER_DECODERS: dict[str, WhisperDecoderConfig] = {
    "tiny.en": _sized(51_864, 384, 4, 6),
    "tiny": _sized(51_865, 384, 4, 6),
    "base.en": _sized(51_864, 512, 6, 8),
    "base": _sized(51_865, 512, 6, 8),
    "small.en": _sized(51_864, 768, 12, 12),
    "small": _sized(51_865, 768, 12, 12),
    "medium.en": _sized(51_864, 1024, 24, 16),
    "medium": _sized(51_865, 1024, 24, 16),
    "large-v1": _sized(51_865, 1280, 32, 20),
    "large-v2": _sized(51_865, 1280, 32, 20),
    "large-v3": _sized(51_866, 1280, 32, 20),
    "turbo": _sized(51_866, 1280, 4, 20),
}


def _pairs(names: dict[str, str], kinds: Sequence[str] = ("weight", "bias")) -> dict[str, str]:
    return {f"{source}.{kind}": f"{target}.{kind}" for source, target in names.items() for kind in kinds}


def _attention_keys(source: str, target: str, names: Sequence[str], key: str) -> dict[str, str]:
    """Rows of one attention: `names` of q, v and o with weight and bias, `key` with a weight only."""
    linears = {f"{source}.{name}": f"{target}.{letter}_proj" for name, letter in zip(names, "qvo", strict=True)}
    return {**_pairs(linears), f"{source}.{key}.weight": f"{target}.k_proj.weight"}


_OPENAI_NAMES = ("query", "value", "out")
_HF_NAMES = ("q_proj", "v_proj", "out_proj")

# Layout of the published .pt files, under `decoder.`.
OPENAI_KEYS = KeyTable.of(
    {
        "token_embedding.weight": "embed_tokens.weight",
        "positional_embedding": "positions",
        **_attention_keys("blocks.{}.attn", "blocks.{}.attn", _OPENAI_NAMES, "key"),
        **_attention_keys("blocks.{}.cross_attn", "blocks.{}.cross", _OPENAI_NAMES, "key"),
        **_pairs({"blocks.{}.attn_ln": "blocks.{}.attn_norm", "blocks.{}.cross_attn_ln": "blocks.{}.cross_norm"}),
        **_pairs({"blocks.{}.mlp_ln": "blocks.{}.mlp_norm"}),
        **_pairs({"blocks.{}.mlp.0": "blocks.{}.mlp.up_proj", "blocks.{}.mlp.2": "blocks.{}.mlp.down_proj"}),
        **_pairs({"ln": "norm"}),
    }
)

# Layout of transformers' Whisper, under `model.decoder.`; its `proj_out` is a copy of the embedding.
HF_KEYS = KeyTable.of(
    {
        "embed_tokens.weight": "embed_tokens.weight",
        "embed_positions.weight": "positions",
        **_attention_keys("layers.{}.self_attn", "blocks.{}.attn", _HF_NAMES, "k_proj"),
        **_attention_keys("layers.{}.encoder_attn", "blocks.{}.cross", _HF_NAMES, "k_proj"),
        **_pairs({"layers.{}.self_attn_layer_norm": "blocks.{}.attn_norm"}),
        **_pairs({"layers.{}.encoder_attn_layer_norm": "blocks.{}.cross_norm"}),
        **_pairs({"layers.{}.final_layer_norm": "blocks.{}.mlp_norm"}),
        **_pairs({"layers.{}.fc1": "blocks.{}.mlp.up_proj", "layers.{}.fc2": "blocks.{}.mlp.down_proj"}),
        **_pairs({"layer_norm": "norm"}),
    }
)
