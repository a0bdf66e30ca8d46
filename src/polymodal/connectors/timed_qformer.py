"""Video-LLaMA's connector (arXiv 2306.02858): a Q-Former over time, behind one per frame where there are frames.

    video  [N, F, S, D'] -> frame Q-Former [N, F, Q, D] -> + position of the frame -> [N, F*Q, D] -> Q-Former -> linear
    sound  [N, C, D']    -> + position of the clip -> Q-Former -> linear [N, Q', E]

Traps: the position is one vector for all features of a frame; the Q-Former over time reads in EVERY block
(`cross_every` 1); tables of positions are short (32 frames, 8 clips) and cannot be stretched.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.connectors.qformer import QFormerConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class TimedQFormerConfig:
    """`frame`: the Q-Former of each frame, None where an item of time is one vector.  `longest`: frames or clips."""

    over_time: QFormerConfig
    out_width: int
    longest: int
    frame: QFormerConfig | None = None

    def __post_init__(self) -> None:
        if self.frame is not None and self.frame.width != self.over_time.source_width:
            raise ConfigError(
                f"Q-Former over time: reads width {self.over_time.source_width}, frames have {self.frame.width}"
            )

    @property
    def tokens(self) -> int:
        """Features per item, however long it is."""
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

    def forward(self, features: Tensor) -> Tensor:
        """[N, F, S, D'] (or [N, C, D'] without a frame Q-Former) -> [N, Q, E].  Raises PromptError beyond `longest`."""
        count = features.shape[1]
        if count > self.config.longest:
            raise PromptError(f"expected at most {self.config.longest} frames or clips, found {count}; take fewer")
        if self.frames is None:
            return self.proj(self.qformer(features + self.positions.weight[:count]))
        states = self.frames(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        states = states + self.positions.weight[:count, None]
        return self.proj(self.qformer(states.flatten(1, 2)))
