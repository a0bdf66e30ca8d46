"""LLaMA-VID's token generation (arXiv 2311.17043): what a question finds in a frame as one token, the frame as others.

    features of a frame [1 + S, W], question -> norm -> Q-Former [Q, D] -> query [Q, W]
    softmax(query key(patches)^T / sqrt(W)) patches, mean over queries [1, W] -> value            the context token
    patches, their mean, or a grid of means [S | 1 | g * g, W] -> project                         the content tokens
    both, one behind the other, frame by frame

Traps: the values are the patches themselves, the linear `value` comes after the mean over the queries; one head as wide
as the features; the class token enters the Q-Former alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt

import torch.nn.functional as F
from torch import Tensor, cat, nn

from polymodal.connectors.linear import ConnectorConfig
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.connectors.qformer import QFormerConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig


@dataclass(frozen=True, kw_only=True)
class ContextTokensConfig:
    """`grid`: content tokens along a side, None: every patch is one."""

    qformer: QFormerConfig
    out_width: int
    grid: int | None = None
    project: ConnectorConfig = field(default_factory=MLPConnectorConfig)

    def __post_init__(self) -> None:
        if self.grid is not None and self.grid < 1:
            raise ConfigError(f"context tokens: grid must be at least 1, found {self.grid}")

    def tokens(self, patches: int) -> int:
        """Features of a frame of so many patches.  Raises ConfigError for a grid that does not divide their side."""
        if self.grid is None:
            return 1 + patches
        side = isqrt(patches)
        if side * side != patches or side % self.grid:
            raise ConfigError(f"context tokens: a grid of {self.grid} a side does not divide {patches} patches")
        return 1 + self.grid**2

    def build(self) -> "ContextTokens":
        return ContextTokens(self)


class ContextTokens(nn.Module):
    """`[sum of F, 1 + S, W]` -> a list of `[F * tokens, E]`, one for each item"""

    def __init__(self, config: ContextTokensConfig) -> None:
        super().__init__()
        self.config = config
        width = config.qformer.source_width
        self.norm = LayerNormConfig(eps=1e-5).build(width)
        self.qformer = config.qformer.build()
        self.query = Linear(config.qformer.width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, config.out_width)
        self.project = config.project.build(width, config.out_width)

    def forward(
        self,
        features: Tensor,
        frame_counts: Sequence[int] | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> list[Tensor]:
        """Features of frames with their class token, and the question of each item, int64 [N, L] with its mask.

        frame_counts: the frames of each item; None: every frame is one.  Raises PromptError for counts that are not
        those of the features or of the questions.
        """
        counts = [1] * len(features) if frame_counts is None else [int(count) for count in frame_counts]
        if sum(counts) != len(features) or (input_ids is not None and len(input_ids) != len(counts)):
            asked = len(counts) if input_ids is None else len(input_ids)
            raise PromptError(
                f"items of {counts} frames with {asked} questions do not fit the {len(features)} frames that were given"
            )
        # The question of an item is asked of each of its frames.
        rows = features.new_tensor(counts).long()
        text = [None if x is None else x.repeat_interleave(rows, 0) for x in (input_ids, attention_mask)]
        asked_states = self.query(self.qformer(self.norm(features), *text))
        patches = features[:, 1:]
        scores = asked_states @ self.key(patches).transpose(1, 2) / patches.shape[-1] ** 0.5
        context = self.value((scores.softmax(-1) @ patches).mean(1, keepdim=True))
        made = cat((context, self.project(self._content(patches))), 1)
        return [item.flatten(0, 1) for item in made.split(counts)]

    def _content(self, patches: Tensor) -> Tensor:
        if self.config.grid is None:
            return patches
        side = isqrt(patches.shape[1])
        maps = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return F.avg_pool2d(maps, side // self.config.grid).flatten(2).transpose(1, 2)
