"""Video-LLaMA's connector (arXiv 2306.02858): a temporal Q-Former; for video, after a Q-Former per frame.

    video  [N, F, S, D'] -> frame Q-Former [N, F, Q, D] -> + position of the frame -> [N, F*Q, D] -> Q-Former -> linear
    audio  [N, C, D']    -> + position of the clip -> Q-Former -> linear [N, Q', E]

Traps: all features of a frame share one position vector; the temporal Q-Former cross-attends in EVERY block
(`cross_every` 1); the position tables are short (32 frames, 8 clips) and are not interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.connectors.qformer import QFormerConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class TimedQFormerConfig:
    """`frame`: the Q-Former per frame, None if a time step is one vector.  `longest`: maximum frames or clips."""

    over_time: QFormerConfig
    out_width: int
    longest: int
    frame: QFormerConfig | None = None

    def __post_init__(self) -> None:
        if self.frame is not None and self.frame.width != self.over_time.source_width:
            raise ConfigError(
                f"temporal Q-Former: expected source_width {self.frame.width}, found {self.over_time.source_width}"
            )

    @property
    def tokens(self) -> int:
        """Features per item, independent of its length."""
        return self.over_time.queries

    def build(self) -> TimedQFormer:
        return TimedQFormer(self)


class TimedQFormer(nn.Module):
    """See the module docstring."""

    def __init__(self, config: TimedQFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = None if config.frame is None else config.frame.build()
        self.positions = nn.Embedding(config.longest, config.over_time.source_width)
        self.qformer = config.over_time.build()
        self.proj = Linear(config.over_time.width, config.out_width)

    def forward(self, features: Tensor, frame_counts: Sequence[int] | None = None) -> Tensor:
        """[N, F, S, D'] (or [N, C, D'] without a frame Q-Former) -> [N, Q, E].  Raises PromptError beyond `longest`.

        frame_counts: of items of unequal length, whose frames stand behind each other, [sum of F, S, D'].
        """
        if frame_counts is not None:
            counts = [int(count) for count in frame_counts]
            if sum(counts) != len(features):
                raise PromptError(f"items of {counts} frames do not make the {len(features)} frames that were given")
            return torch.cat([self(item[None]) for item in features.split(counts)])
        count = features.shape[1]
        if count > self.config.longest:
            raise PromptError(f"expected at most {self.config.longest} frames or clips, found {count}; sample fewer")
        if self.frames is None:
            return self.proj(self.qformer(features + self.positions.weight[:count]))
        states = self.frames(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        states = states + self.positions.weight[:count, None]
        return self.proj(self.qformer(states.flatten(1, 2)))
