"""Which frames of a video are looked at, by numbers of frames as official samplers count.

Clips of Otter and Dolphins: frames at equal steps from the first, one tensor a clip.

a video -> frames 0, s, 2s, ... with s = length // count -> [count, 3, H, W]; of a batch [N, 1, count, 3, H, W]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polymodal.data.media import Video
from polymodal.data.transforms import ShorterSideCrop, transform_frames

FRAMES = 16  # of a clip, in the official demonstrations


@dataclass(frozen=True, kw_only=True)
class FramesOf:
    """`count` frames of a video, each cut as a picture -> float32 [count, 3, H, W]."""

    transform: ShorterSideCrop
    count: int = FRAMES

    def __call__(self, item: Video) -> Tensor:
        times = item.frame_times
        chosen = [float(times[i]) for i in frame_numbers(len(times), self.count)]
        return transform_frames(self.transform, item.clip(times=chosen).frames)


def frame_numbers(length: int, count: int = FRAMES) -> list[int]:
    """Which of `length` frames are taken; of fewer than `count`, the first again and again."""
    return [i * (length // count) for i in range(count)]


def stacked(items: Sequence[Tensor]) -> Tensor:
    """[F, 3, H, W] each -> [N, 1, F, 3, H, W], the official order of dimensions."""
    return torch.stack(list(items))[:, None]


def second_of(times: np.ndarray) -> int:
    """How many frames a second of a video has, rounded, at least 1; times: when each is shown."""
    return max(1, round((len(times) - 1) / float(times[-1]))) if len(times) > 1 else 1
