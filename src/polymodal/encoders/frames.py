"""A picture encoder for videos: every frame by itself, the frames kept apart.

[N, F, 3, H, W] -> [N*F, 3, H, W] -> encoder -> [N, F, S, D]
"""

from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError


class FrameEncoder(nn.Module):
    """`encoder` takes [N, 3, H, W].  still: a picture [N, 3, H, W] counts as a video of one frame."""

    def __init__(self, encoder: nn.Module, still: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.still = still

    def forward(self, frames: Tensor, **more: Any) -> Tensor:
        """float [N, F, C, H, W] -> [N, F, S, D], or [N, F, D] of an encoder of vectors.  Raises ConfigError."""
        if self.still and frames.dim() == 4:
            frames = frames[:, None]
        if frames.dim() != 5:
            raise ConfigError(
                f"expected frames as [N, F, 3, H, W] (sound: clips [N, C, 1, mels, T]), found {list(frames.shape)}"
            )
        features = self.encoder(frames.flatten(0, 1), **more)
        return features.unflatten(0, frames.shape[:2])
