"""Rows of features through a BERT to a language model (X-LLM's C-Adapter, arXiv 2305.04160); or one linear alone.

Flow
    [N, T, Din] -> linear, ReLU -> + positions + segment 0 -> norm -> post-norm blocks -> linear, ReLU -> N of [t, Dout]
    fc: [N, T, Din] -> linear, ReLU

Traps: the last ReLU too is kept, so what the language model reads is never negative; a row of zeros is padding, seen by
nobody, wherever it stands, but has a place and a feature of its own all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polymodal.errors import MediaError, PromptError
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.linear import Linear
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import LayerNormConfig, NormConfig


@dataclass(frozen=True, kw_only=True)
class BertBodyConfig:
    """What is behind the words of a BERT.  segments: rows of its table, of which the first is read."""

    width: int
    blocks: tuple[PostNormBlockConfig, ...]
    positions: int = 512
    segments: int = 2
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))

    def build(self) -> BertBody:
        return BertBody(self)


@dataclass(frozen=True, kw_only=True)
class BertAdaptorConfig:
    """`bert` None: the linear alone."""

    in_width: int
    out_width: int
    bert: BertBodyConfig | None

    @property
    def longest(self) -> int | None:
        """The most rows of an item; None: any number."""
        return None if self.bert is None else self.bert.positions

    def build(self) -> BertAdaptor:
        return BertAdaptor(self)


class BertAdaptor(nn.Module):
    """See the module docstring."""

    def __init__(self, config: BertAdaptorConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.in_width if config.bert is None else config.bert.width
        self.in_proj = None if config.bert is None else Linear(config.in_width, inner)
        self.body = None if config.bert is None else config.bert.build()
        self.out_proj = Linear(inner, config.out_width)

    def forward(self, features: Tensor | Sequence[Tensor], lengths: Sequence[int] | None = None) -> list[Tensor]:
        """features [N, T, Din] or N of [t, Din]; lengths: rows of each item, on the host; None: all.

        Raises PromptError for lengths that do not fit, MediaError for more rows than there are positions.
        """
        if not isinstance(features, Tensor):
            lengths = [len(item) for item in features]
            features = pad_sequence(list(features), batch_first=True)
        counts = [features.shape[1]] * len(features) if lengths is None else [int(count) for count in lengths]
        if len(counts) != len(features) or max(counts, default=0) > features.shape[1]:
            raise PromptError(
                f"features: {len(features)} items of {features.shape[1]} rows, but {counts} are announced"
            )
        if self.config.longest is not None and max(counts, default=0) > self.config.longest:
            raise MediaError(f"features: {max(counts)} rows, this model takes {self.config.longest} at most")
        x = features
        if self.in_proj is not None and self.body is not None:
            x = self.body(torch.relu(self.in_proj(x)), features.sum(-1) != 0)
        x = torch.relu(self.out_proj(x))
        return [item[:count] for item, count in zip(x, counts, strict=True)]


class BertBody(nn.Module):
    """Post-norm blocks over what stands where words would."""

    def __init__(self, config: BertBodyConfig) -> None:
        super().__init__()
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.embed_segments = nn.Embedding(config.segments, config.width)
        self.norm = config.norm.build(config.width)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x [N, T, D], seen bool [N, T]."""
        count = x.shape[1]
        x = self.norm(x + self.embed_segments.weight[0] + self.embed_positions.weight[:count])
        mask = MaskSpec(causal=False, attention_mask=seen.long()).prepare(count, count, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x
