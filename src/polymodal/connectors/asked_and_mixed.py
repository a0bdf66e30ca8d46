"""SPHINX's connector (arXiv 2311.07575): queries of a Q-Former and mixed features, view by view, between two markers.

Flow
    asked [N, V, S', D'] -> Q-Former -> linear -> norm  [N * V, Q, E]
    mixed [N, V, S, D]   -> linear -> norm              [N * V, S, E]
    each view: start, queries, mixed, end               -> [N, V * (Q + S + 2), E]

Trap: the markers are learned vectors, not tokens of the vocabulary, and the same for every view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.connectors.qformer import QFormerConfig
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig


@dataclass(frozen=True, kw_only=True)
class AskedAndMixedConfig:
    """mixed_width: of the mixed features; out_width: of the backbone.  qformer None: mixed features alone (Tiny)."""

    qformer: QFormerConfig | None
    mixed_width: int
    out_width: int

    def tokens(self, mixed: int, views: int) -> int:
        """Features of a picture of so many mixed features a view."""
        return views * ((0 if self.qformer is None else self.qformer.queries) + mixed + 2)

    def build(self) -> AskedAndMixed:
        """Build the connector with fresh weights."""
        return AskedAndMixed(self)


class AskedAndMixed(nn.Module):
    """See the module docstring."""

    def __init__(self, config: AskedAndMixedConfig) -> None:
        super().__init__()
        self.config = config
        norm, width, asked = LayerNormConfig(), config.out_width, config.qformer
        self.qformer = None if asked is None else asked.build()
        self.asked_proj = None if asked is None else Linear(asked.width, width)
        self.asked_norm = None if asked is None else norm.build(width)
        self.mixed_proj, self.mixed_norm = Linear(config.mixed_width, width), norm.build(width)
        self.start, self.end = (nn.Parameter(torch.rand(width)) for _ in range(2))

    def forward(self, features: tuple[Tensor | None, Tensor]) -> Tensor:
        """(asked, mixed) -> [N, tokens, E]."""
        asked, mixed = features
        seen = self.mixed_norm(self.mixed_proj(mixed))
        start, end = (marker.expand(*seen.shape[:2], 1, -1) for marker in (self.start, self.end))
        if self.qformer is None or self.asked_proj is None or self.asked_norm is None or asked is None:
            return torch.cat((start, seen, end), 2).flatten(1, 2)
        queries = self.asked_norm(self.asked_proj(self.qformer(asked.flatten(0, 1)))).unflatten(0, asked.shape[:2])
        return torch.cat((start, queries, seen, end), 2).flatten(1, 2)
