"""One Q-Former that is asked by other queries for pictures than for the frames of videos (X-LLM, arXiv 2305.04160).

Flow
    picture [N, S, D'] -> Q-Former, its own queries -> linear [N, Q, E]
    frames [sum of F, S, D'] -> the same Q-Former, queries for frames -> linear of their own -> N of [F * Q, E]

Trap: nothing says which frame is which; they stand in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.connectors.qformer import QFormerConfig
from polymodal.errors import PromptError
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class TwoQueriesConfig:
    """`qformer`, and the width that both linears lead to."""

    qformer: QFormerConfig
    out_width: int

    @property
    def tokens(self) -> int:
        """Features of a picture or of a frame."""
        return self.qformer.queries

    def build(self) -> TwoQueries:
        return TwoQueries(self)


class TwoQueries(nn.Module):
    """See the module docstring."""

    def __init__(self, config: TwoQueriesConfig) -> None:
        super().__init__()
        self.qformer = config.qformer.build()
        self.video_queries = nn.Parameter(torch.randn(config.qformer.queries, config.qformer.width) * 0.02)
        self.proj, self.video_proj = (Linear(config.qformer.width, config.out_width) for _ in range(2))

    def forward(self, features: Tensor, frame_counts: Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """frame_counts: of each video, on the host; None: the features are those of pictures.

        Raises PromptError when the counts do not add up to the frames.
        """
        if frame_counts is None:
            return self.proj(self.qformer(features))
        counts = [int(count) for count in frame_counts]
        if sum(counts) != len(features):
            raise PromptError(f"frames: videos of {sum(counts)} frames are announced, found {len(features)}")
        x = self.video_proj(self.qformer(features, queries=self.video_queries))
        return [item.flatten(0, 1) for item in x.split(counts)]
