"""A text transformer of BERT's shape: two-way by default, causal with a cache or cross-attending when the caller says.

BERT (arXiv 1810.04805): word + position (+ segment) embeddings -> norm -> blocks (-> final norm) -> hidden [B, T, D]
    pool(hidden)    dense and tanh on the first token
    sentence(...)   mean over real tokens, unit length (Sentence-BERT, arXiv 1908.10084)
    TokenHead       dense -> activation -> norm -> vocabulary, a weight of its own or the embedding's
Which blocks cross-attend is said by the list of blocks (nn/block.py): all of them (BLIP), the upper half (ALBEF), none
(MiniLM).  `embed` and `run` are the two halves of `forward`, for callers that mask, feed or split it themselves.

Traps: post-norm (the norm follows the sum), eps 1e-12, exact (erf) GELU; segment 0 is added to every token even when
there is one sentence, unless the model has no segments (BLIP).  Positions are places, padding included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.activation import activation
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig, PreNormBlockConfig
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec, padding_mask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename


class TextBlockConfig(Protocol):
    """What a TextEncoder's `blocks` hold: PostNormBlockConfig, PreNormBlockConfig, or one called like them."""

    @property
    def attention(self) -> AttentionConfig: ...

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """`positions`: longest input in tokens.  `segments` 0: no segment table.  `pooler`: dense and tanh."""

    vocab_size: int
    width: int
    blocks: tuple[TextBlockConfig, ...]
    positions: int = 512
    segments: int = 2
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))
    final_norm: NormConfig | None = None
    pooler: bool = False

    def build(self) -> "TextEncoder":
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """`input_ids, attention_mask [B, T] -> hidden [B, T, D]`; see the module docstring."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.embed_segments = nn.Embedding(config.segments, config.width) if config.segments else None
        self.norm = config.norm.build(config.width)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.final_norm = None if config.final_norm is None else config.final_norm.build(config.width)
        self.pooler = nn.Linear(config.width, config.width) if config.pooler else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Two-way hidden states `[B, T, D]`; `token_type_ids [B, T]` are BERT's segments, default 0."""
        x = self.embed(input_ids, token_type_ids)
        return self.run(x, MaskSpec(causal=False, attention_mask=padding_mask(attention_mask)))

    def embed(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        start: int = 0,
    ) -> Tensor:
        """Input of the first block `[B, T, D]`.  `start`: tokens before these (in a cache), without `position_ids`.

        Raises ConfigError beyond the last position.
        """
        end = start + input_ids.shape[1]
        if position_ids is None and end > self.config.positions:
            raise ConfigError(
                f"text encoder: {end} tokens exceed its {self.config.positions} positions; shorten the text"
            )
        places = self.embed_positions.weight[start:end]
        x = self.embed_tokens(input_ids)
        if self.embed_segments is not None:
            kind = self.embed_segments.weight[0] if token_type_ids is None else self.embed_segments(token_type_ids)
            x = x + kind
        return self.norm(x + (places if position_ids is None else self.embed_positions(position_ids)))

    def run(
        self,
        x: Tensor,
        mask: MaskSpec,
        *,
        source: Tensor | None = None,
        source_mask: MaskSpec | None = None,
        cache: KVCache | None = None,
        layers: tuple[int, int] | None = None,
    ) -> Tensor:
        """Blocks `layers` (first, end; default all) over `x [B, T, D]`; the final norm follows the last block.

        `mask` covers cached and new keys.  `source [B, S, D']` is what cross-attention reads, under `source_mask`
        of S keys; with `cache` (advanced by T) it may be left out from the second call on.
        """
        count, first, end = x.shape[1], 0, len(self.blocks)
        if layers is not None:
            first, end = layers
        total = count if cache is None else cache.length + count
        prepared = mask.prepare(count, total, x.device)
        looks = any(getattr(block, "cross", None) is not None for block in self.blocks)
        for i in range(first, end):
            layer = None if cache is None else cache.layer(i)
            if looks:
                x = self.blocks[i](x, prepared, source=source, source_mask=source_mask, cache=layer)
            else:
                x = self.blocks[i](x, prepared, cache=layer)
        if cache is not None:
            cache.advance(count)
        return x if self.final_norm is None or end < len(self.blocks) else self.final_norm(x)

    def pool(self, hidden: Tensor) -> Tensor:
        """`[B, T, D] -> [B, D]` from the first token; raises ConfigError without a pooler."""
        if self.pooler is None:
            raise ConfigError("text encoder: no pooler; build it with pooler=True")
        return torch.tanh(self.pooler(hidden[:, 0]))

    def sentence(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One unit vector a row, `[B, D]`: the mean over real tokens, normalised."""
        weights = attention_mask[..., None].to(self.embed_tokens.weight.dtype)
        summed = (self(input_ids, attention_mask) * weights).sum(1)
        return F.normalize(summed / weights.sum(1).clamp(min=1), dim=-1)

    def new_cache(self, batch: int, capacity: int | None = None) -> KVCache:
        """Cache for `batch` rows of at most `capacity` tokens (default and at most `positions`)."""
        attention, weight = self.config.blocks[0].attention, self.embed_tokens.weight
        return KVCache.allocate(
            layers=len(self.blocks),
            batch=batch,
            kv_heads=attention.key_heads,
            head_dim=attention.size,
            capacity=min(capacity or self.config.positions, self.config.positions),
            dtype=weight.dtype,
            device=weight.device,
        )


class ProjectedText(nn.Module):
    """A text encoder with a pooler and a linear into a joint space of `out_width`, for a DualEncoder."""

    def __init__(self, config: TextEncoderConfig, out_width: int, bias: bool = False):
        super().__init__()
        self.encoder = config.build()
        self.proj = nn.Linear(config.width, out_width, bias=bias)

    def joint(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """`[B, T] -> [B, E]`, not of unit length."""
        x = self.encoder.embed(input_ids, position_ids=position_ids)
        hidden = self.encoder.run(x, MaskSpec(causal=False, attention_mask=padding_mask(attention_mask)))
        return self.proj(self.encoder.pool(hidden))


@dataclass(frozen=True, kw_only=True)
class TokenHeadConfig:
    """The masked- or next-token head.  `tied`: the vocabulary weight is given at the call (the embedding's)."""

    width: int
    vocab_size: int
    activation: str = "gelu"
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))
    tied: bool = True

    def build(self) -> "TokenHead":
        return TokenHead(self)


class TokenHead(nn.Module):
    """`[..., D] -> logits [..., V]`"""

    def __init__(self, config: TokenHeadConfig):
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.act = activation(config.activation)
        self.norm = config.norm.build(config.width)
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.width))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor | None = None) -> Tensor:
        """`embedding [V, D]`: the weight of a tied head; raises ConfigError when it is missing or not wanted."""
        weight = embedding if self.weight is None else self.weight
        if weight is None or (self.weight is not None and embedding is not None):
            raise ConfigError("token head: give the embedding to a tied head, and to no other")
        return F.linear(self.norm(self.act(self.dense(hidden))), weight, self.bias)


def bert(width: int, depth: int, heads: int, ffn_width: int, vocab_size: int = 30522) -> TextEncoderConfig:
    """BERT's shape at any size, every block alike."""
    block = PostNormBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=ffn_width, activation="gelu", bias=True),
    )
    return TextEncoderConfig(vocab_size=vocab_size, width=width, blocks=(block,) * depth)


def parse_config(
    config: Mapping[str, Any], *, pooler: bool = False, pre_norm: bool = False, cross: tuple[int, int] | None = None
) -> TextEncoderConfig:
    """The encoder a BERT-like text config describes, at any size.

    `pre_norm`: ViT's order of sum and norm with a final norm (FLAVA).  `cross` (n, width): blocks n and up
    cross-attend to a source of that width (BLIP, ALBEF).  Raises ConfigError for relative positions.
    """
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ConfigError(f"text encoder: position_embedding_type 'absolute' expected, found {kind!r}; not supported")
    width = config.get("hidden_size", 768)
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-12))
    bias = config.get("qkv_bias", True)
    heads = config.get("num_attention_heads", 12)
    attention = AttentionConfig(width=width, heads=heads, qkv_bias=bias, out_bias=True)
    mlp = MLPConfig(
        width=width, ffn_width=config.get("intermediate_size", 3072), activation=config.get("hidden_act", "gelu")
    )
    depth = config.get("num_hidden_layers", 12)
    first, source = (depth, None) if cross is None else cross
    look = replace(attention, source_width=source)
    blocks: list[TextBlockConfig] = []
    for i in range(depth):
        if pre_norm:
            blocks.append(PreNormBlockConfig(attention=attention, mlp=mlp, norm=norm))
        else:
            reads = look if i >= first else None
            blocks.append(PostNormBlockConfig(attention=attention, mlp=mlp, norm=norm, cross=reads))
    return TextEncoderConfig(
        vocab_size=config.get("vocab_size", 30522),
        width=width,
        blocks=tuple(blocks),
        positions=config.get("max_position_embeddings", 512),
        segments=config.get("type_vocab_size", 2),
        norm=norm,
        final_norm=norm if pre_norm else None,
        pooler=pooler,
    )


MINILM_L6 = bert(width=384, depth=6, heads=12, ffn_width=1536)
"""all-MiniLM-L6-v2, 22.6 M parameters, 384 numbers a sentence, at most 256 tokens in its training (Apache-2.0)."""


def weight_and_bias(source: str, target: str) -> list[Row]:
    """Both leaves of a linear or a norm."""
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]


def attention_keys(source: str, target: str) -> list[Row]:
    """BERT's `<source>.self.query ... <source>.output.LayerNorm` -> `<target>.q_proj ... <target>_norm`."""
    return [
        *weight_and_bias(f"{source}.self.query", f"{target}.q_proj"),
        *weight_and_bias(f"{source}.self.key", f"{target}.k_proj"),
        *weight_and_bias(f"{source}.self.value", f"{target}.v_proj"),
        *weight_and_bias(f"{source}.output.dense", f"{target}.o_proj"),
        *weight_and_bias(f"{source}.output.LayerNorm", f"{target}_norm"),
    ]


def post_norm_rows(source: str, target: str) -> list[Row]:
    """A block of BERT's names -> a PostNormBlock."""
    return [
        *attention_keys(f"{source}.attention", f"{target}.attn"),
        *weight_and_bias(f"{source}.intermediate.dense", f"{target}.mlp.up_proj"),
        *weight_and_bias(f"{source}.output.dense", f"{target}.mlp.down_proj"),
        *weight_and_bias(f"{source}.output.LayerNorm", f"{target}.mlp_norm"),
    ]


EMBEDDING_KEYS = KeyTable(
    (
        drop("embeddings.position_ids"),
        rename("embeddings.word_embeddings.weight", "embed_tokens.weight"),
        rename("embeddings.position_embeddings.weight", "embed_positions.weight"),
        rename("embeddings.token_type_embeddings.weight", "embed_segments.weight"),
        *weight_and_bias("embeddings.LayerNorm", "norm"),
    )
)
"""The embeddings of BERT checkpoints -> ours."""

_LAYER = "encoder.layer.{}"
BODY_KEYS = EMBEDDING_KEYS + KeyTable(
    (
        *post_norm_rows(_LAYER, "blocks.{}"),
        *attention_keys(f"{_LAYER}.crossattention", "blocks.{}.cross"),
    )
)
"""BERT without its pooler, with the cross-attention of BLIP and ALBEF."""

POOLER_KEYS = KeyTable(tuple(weight_and_bias("pooler.dense", "pooler")))


def pre_norm_keys(*, norm: str = "final_norm", pooler: str | None = None) -> KeyTable:
    """Blocks with ViT's names (FLAVA's texts, ViLT) -> ours; `norm`, `pooler`: where the last two parts go."""
    rows = [
        *weight_and_bias(f"{_LAYER}.layernorm_before", "blocks.{}.attn_norm"),
        *weight_and_bias(f"{_LAYER}.attention.attention.query", "blocks.{}.attn.q_proj"),
        *weight_and_bias(f"{_LAYER}.attention.attention.key", "blocks.{}.attn.k_proj"),
        *weight_and_bias(f"{_LAYER}.attention.attention.value", "blocks.{}.attn.v_proj"),
        *weight_and_bias(f"{_LAYER}.attention.output.dense", "blocks.{}.attn.o_proj"),
        *weight_and_bias(f"{_LAYER}.layernorm_after", "blocks.{}.mlp_norm"),
        *weight_and_bias(f"{_LAYER}.intermediate.dense", "blocks.{}.mlp.up_proj"),
        *weight_and_bias(f"{_LAYER}.output.dense", "blocks.{}.mlp.down_proj"),
        *weight_and_bias("layernorm", norm),
    ]
    return (
        KeyTable((*rows, *weight_and_bias("pooler.dense", pooler))) if pooler else KeyTable((*rows, drop("pooler.**")))
    )


BERT_KEYS = KeyTable((drop("pooler.**"),)) + BODY_KEYS
"""`transformers` BertModel names -> ours, without the pooler."""


BIASES = ("bias", "decoder.bias")
"""What files call the bias of a token head; with both of them the inner one counts, as in the library's classes."""


def head_keys(source: str, *, embedding: str | None, bias: str) -> KeyTable:
    """Names below `source` ("cls.predictions." or a head of its kind) -> TokenHead, for files that hold the bias under
    the name `bias`, one of BIASES.

    embedding: the word embedding that a tied head repeats, by its name in the file; None: the head is its own.
    """
    weight = f"{source}decoder.weight"
    outer = (drop(f"{source}bias"),) if bias != "bias" else ()
    return KeyTable(
        (
            *weight_and_bias(f"{source}transform.dense", "dense"),
            *weight_and_bias(f"{source}transform.LayerNorm", "norm"),
            rename(weight, "weight") if embedding is None else drop(weight, copy_of=embedding),
            rename(f"{source}{bias}", "bias"),
            *outer,
        )
    )
