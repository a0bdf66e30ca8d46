"""Video-ChatGPT's pooling (arXiv 2306.05424): one feature for every frame, one for every patch, then a connector.

    features of frames [F, S, Din] -> mean over patches [F, Din], zeros up to `frames`    when something is seen
                                   -> mean over frames  [S, Din]                          where it is seen
    both, one behind the other [frames + S, Din] -> project -> [frames + S, Dout]

Trap: the zeros of a short video are projected too, so they enter the backbone as the projection's bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.connectors.linear import ConnectorConfig, LinearConnectorConfig
from polymodal.errors import ConfigError, PromptError


@dataclass(frozen=True, kw_only=True)
class FramesAndPatchesConfig:
    """`frames`: the most frames of a video, and how many features of frames every video has."""

    frames: int = 100
    project: ConnectorConfig = field(default_factory=LinearConnectorConfig)

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"frames and patches: frames must be at least 1, found {self.frames}")

    def build(self, in_width: int, out_width: int) -> "FramesAndPatches":
        """Build the connector with fresh weights."""
        return FramesAndPatches(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features of a video whose frames have `n_in` patches each."""
        return self.project.tokens(self.frames + n_in)


class FramesAndPatches(nn.Module):
    """`[sum of F, S, Din] -> [N, frames + S, Dout]`"""

    def __init__(self, config: FramesAndPatchesConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build(in_width, out_width)

    def forward(self, features: Tensor, frame_counts: Sequence[int] | None = None) -> Tensor:
        """Pool the frames of every video, float [sum of F, S, Din], and project.

        frame_counts: how many frames each video has; None: they are all of one.  Raises PromptError for more than
        `frames` of a video, and for counts that are not those of the features.
        """
        counts = [len(features)] if frame_counts is None else [int(count) for count in frame_counts]
        if sum(counts) != len(features) or min(counts) < 1:
            raise PromptError(f"videos of {counts} frames do not make the {len(features)} frames that were given")
        if max(counts) > self.config.frames:
            raise PromptError(f"a video of {max(counts)} frames; this model takes {self.config.frames} at most")
        return self.project(torch.stack([self._pooled(video) for video in features.split(counts)]))

    def _pooled(self, video: Tensor) -> Tensor:
        over_patches = F.pad(video.mean(1), (0, 0, 0, self.config.frames - len(video)))
        return torch.cat((over_patches, video.mean(0)))
