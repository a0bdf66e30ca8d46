"""The Q-Former: learned queries that attend to an encoder's features and, optionally, to a text.

Papers: BLIP-2 (arXiv 2301.12597), InstructBLIP (2305.06500), Video-LLaMA (2306.02858).

    [queries [Q, D], text embeddings + positions [T, D]] -> norm -> post-norm BERT blocks:
        self-attention over queries and text -> cross-attention to the features, for the QUERIES only, in every
        n-th block from the first -> feed-forward, one for the queries and another for the text
    features [N, S, D'] -> states of the queries [N, Q, D]

Without text input, the text feed-forward and embeddings do not exist (BLIP-2's second stage); BLIP-2's retrieval
model and InstructBLIP have them.  `QFormerConnector` adds the linear to the backbone's width.
Traps: the embedding norm applies to the queries too, but they get no position; a block has two feed-forwards of the
same shape; text-only input (`encode_text`) skips cross-attention and the feed-forward of the queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlock, PostNormBlockConfig
from polymodal.nn.linear import Linear
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """`source_width`: of the features.  `cross_every` n: blocks 0, n, 2n ... have cross-attention.

    qk_norm: queries and keys are normed per head.  text_mlp: build the text feed-forward.  vocab_size: build the text
    embeddings too, None: do not.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    ffn_width: int = 3072
    source_width: int = 1408
    queries: int = 32
    cross_every: int = 2
    activation: str = "gelu"
    eps: float = 1e-12
    qk_norm: bool = False
    text_mlp: bool = False
    vocab_size: int | None = None
    positions: int = 512

    def __post_init__(self) -> None:
        if self.cross_every < 1 or self.queries < 1:
            raise ConfigError(
                f"Q-Former: cross_every and queries must be at least 1, found {self.cross_every} and {self.queries}"
            )
        if self.vocab_size is not None and not self.text_mlp:
            raise ConfigError("Q-Former: a vocabulary needs the text feed-forward; set text_mlp=True")

    def block(self, index: int) -> PostNormBlockConfig:
        """The block at `index`, with the feed-forward of the queries."""
        norm = LayerNormConfig(eps=self.eps)
        normed = norm if self.qk_norm else None
        attention = AttentionConfig(
            width=self.width, heads=self.heads, qkv_bias=True, out_bias=True, q_norm=normed, k_norm=normed
        )
        return PostNormBlockConfig(
            attention=attention,
            mlp=self.mlp,
            norm=norm,
            cross=None if index % self.cross_every else replace(attention, source_width=self.source_width),
        )

    @property
    def mlp(self) -> MLPConfig:
        """Config of either feed-forward."""
        return MLPConfig(width=self.width, ffn_width=self.ffn_width, activation=self.activation)

    def build(self) -> QFormer:
        return QFormer(self)


class QFormerBlock(nn.Module):
    """`[N, Q + T, D] -> [N, Q + T, D]`; `queries`: Q."""

    def __init__(self, config: QFormerConfig, index: int) -> None:
        super().__init__()
        self.query: PostNormBlock = config.block(index).build()
        self.text_mlp = config.mlp.build() if config.text_mlp else None
        self.text_norm = LayerNormConfig(eps=config.eps).build(config.width) if config.text_mlp else None

    def forward(self, x: Tensor, queries: int, mask: PreparedMask | None, source: Tensor | None) -> Tensor:
        x = self.query.self_attn(x, mask)
        query_states, text = x[:, :queries], x[:, queries:]
        if queries:
            query_states = self.query.mlp_block(self.query.cross_attn(query_states, source))
        if not text.shape[1]:
            return query_states
        if self.text_mlp is None or self.text_norm is None:
            raise PromptError("this Q-Former takes no text: it was built without the text feed-forward")
        return torch.cat((query_states, self.text_norm(text + self.text_mlp(text))), 1)


class QFormer(nn.Module):
    """See the module docstring."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.randn(config.queries, config.width) * 0.02)
        has_text = config.vocab_size is not None
        self.words = nn.Embedding(config.vocab_size or 0, config.width) if has_text else None
        self.positions = nn.Embedding(config.positions, config.width) if has_text else None
        self.norm = LayerNormConfig(eps=config.eps).build(config.width)
        self.blocks = nn.ModuleList(QFormerBlock(config, index) for index in range(config.depth))

    def forward(
        self,
        features: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """features [N, S, D'], optional text (int64 ids [N, T], mask [N, T], 1 = real token) -> queries [N, Q, D].

        queries [Q, D]: asked in place of the module's own.
        """
        queries = (self.queries if queries is None else queries).expand(features.shape[0], -1, -1)
        text = None if input_ids is None else self._embed(input_ids)
        if text is not None and len(text) != len(queries):
            raise PromptError(f"Q-Former: expected one text per item ({len(queries)}), found {len(text)}")
        x = queries if text is None else torch.cat((queries, text.to(queries.dtype)), 1)
        if text is not None and attention_mask is not None:
            attention_mask = torch.cat((attention_mask.new_ones(len(x), queries.shape[1]), attention_mask), 1)
        return self._run(x, queries.shape[1], attention_mask, features)[:, : queries.shape[1]]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Text without features: int64 [B, T] -> states [B, T, D]."""
        return self._run(self._embed(input_ids), 0, attention_mask, None)

    def caption_states(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Text states [N, T, D] for captioning: text attends causally and to the queries.

        features [N, S, D'], int64 ids [N, T]; the queries attend to each other and to the features only.
        """
        queries = self.queries.expand(features.shape[0], -1, -1)
        x = self.norm(torch.cat((queries, self._embed(input_ids).to(queries.dtype)), 1))
        count, length = queries.shape[1], x.shape[1]
        query_mask = torch.ones(len(x), count, dtype=torch.long, device=x.device)
        attention_mask = None if attention_mask is None else torch.cat((query_mask, attention_mask), 1)
        spans = torch.cat((query_mask, query_mask.new_zeros(len(x), length - count)), 1)
        mask = MaskSpec(attention_mask=attention_mask, two_way=spans).prepare(length, length, x.device)
        for block in self.blocks:
            x = block(x, count, mask, features)
        return x[:, count:]

    def _embed(self, input_ids: Tensor) -> Tensor:
        if self.words is None or self.positions is None:
            raise PromptError("this Q-Former takes no text: it was built without a vocabulary")
        length = input_ids.shape[1]
        if length > self.positions.num_embeddings:
            raise PromptError(
                f"Q-Former: expected at most {self.positions.num_embeddings} text tokens, found {length}; truncate it"
            )
        return self.words(input_ids) + self.positions.weight[:length]

    def _run(self, x: Tensor, queries: int, attention_mask: Tensor | None, source: Tensor | None) -> Tensor:
        x = self.norm(x)
        length = x.shape[1]
        mask = None
        if attention_mask is not None and length > queries:
            mask = MaskSpec(causal=False, attention_mask=attention_mask).prepare(length, length, x.device)
        for block in self.blocks:
            x = block(x, queries, mask, source)
        return x


@dataclass(frozen=True, kw_only=True)
class QFormerConnectorConfig:
    """A Q-Former and a linear to the backbone's width."""

    qformer: QFormerConfig
    out_width: int

    @property
    def tokens(self) -> int:
        """Features per item."""
        return self.qformer.queries

    def build(self) -> QFormerConnector:
        return QFormerConnector(self)


class QFormerConnector(nn.Module):
    """`[N, S, D'] -> [N, Q, E]`, with an optional text per item.

    Videos `[N, F, S, D']` give `[N, F*Q, E]`: each frame is processed separately, with the text of its video.
    """

    def __init__(self, config: QFormerConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.qformer = config.qformer.build()
        self.proj = Linear(config.qformer.width, config.out_width)

    def forward(
        self, features: Tensor, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        if features.dim() == 3:
            return self.proj(self.qformer(features, input_ids, attention_mask))
        items, frames = features.shape[:2]
        text = [None if x is None else x.repeat_interleave(frames, 0) for x in (input_ids, attention_mask)]
        return self.proj(self.qformer(features.flatten(0, 1), *text)).unflatten(0, (items, frames)).flatten(1, 2)


def parse_config(config: Mapping[str, Any], *, queries: int, source_width: int, text: str = "none") -> QFormerConfig:
    """The Q-Former of a `qformer_config` on the hub; absent keys take transformers' defaults.

    text: "none"; "mlp": only the text feed-forward; "full": the text embeddings too.
    """
    return QFormerConfig(
        width=config.get("hidden_size", 768),
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        ffn_width=config.get("intermediate_size", 3072),
        source_width=source_width,
        queries=queries,
        cross_every=config.get("cross_attention_frequency", 2),
        activation=config.get("hidden_act", "gelu"),
        eps=config.get("layer_norm_eps", 1e-12),
        text_mlp=text != "none",
        vocab_size=config.get("vocab_size", 30522) if text == "full" else None,
        positions=config.get("max_position_embeddings", 512),
    )


def _block_names(config: QFormerConfig, inner: str) -> dict[str, str | None]:
    """Names of one block in the hub files (inner "attention") or the official files (inner "self")."""
    names = {}
    for theirs, ours in (("attention", "attn"), ("crossattention", "cross")):
        for word in ("query", "key", "value"):
            names[f"{theirs}.{inner}.{word}"] = f"query.{ours}.{word[0]}_proj"
        if config.qk_norm:
            names |= {f"{theirs}.{inner}.{word}_norm": f"query.{ours}.{word}_norm" for word in "qk"}
        names[f"{theirs}.output.dense"] = f"query.{ours}.o_proj"
        names[f"{theirs}.output.LayerNorm"] = f"query.{ours}_norm"
    names["intermediate_query.dense"] = "query.mlp.up_proj"
    names["output_query.dense"] = "query.mlp.down_proj"
    names["output_query.LayerNorm"] = "query.mlp_norm"
    if config.text_mlp:
        names["intermediate.dense"] = "text_mlp.up_proj"
        names["output.dense"] = "text_mlp.down_proj"
        names["output.LayerNorm"] = "text_norm"
    return {
        f"encoder.layer.{{}}.{theirs}.{leaf}": f"blocks.{{}}.{ours}.{leaf}"
        for theirs, ours in names.items()
        for leaf in ("weight", "bias")
    }


def _norm_names(source: str) -> dict[str, str | None]:
    return {f"{source}.{leaf}": f"norm.{leaf}" for leaf in ("weight", "bias")}


_TEXT_NAMES: dict[str, str | None] = {
    "embeddings.word_embeddings.weight": "words.weight",
    "embeddings.position_embeddings.weight": "positions.weight",
    "embeddings.position_ids": None,
}
WORD_KEYS = KeyTable.of(_TEXT_NAMES)
"""The text embeddings only, for files that store them outside the Q-Former (BLIP-2's retrieval model on the hub)."""


def hf_keys(config: QFormerConfig, norm: str = "layernorm") -> KeyTable:
    """Hub names under `qformer.`, without the queries; `norm` is "embeddings.layernorm" in InstructBLIP."""
    text = {} if config.vocab_size is None else _TEXT_NAMES
    return KeyTable.of({**_norm_names(norm), **text, **_block_names(config, "attention")})


def lavis_keys(config: QFormerConfig) -> KeyTable:
    """Official names under `Qformer.bert.`, without the queries."""
    dropped: dict[str, str | None] = {"embeddings.position_ids": None}
    text = dropped if config.vocab_size is None else _TEXT_NAMES
    return KeyTable.of({**_norm_names("embeddings.LayerNorm"), **text, **_block_names(config, "self")})
