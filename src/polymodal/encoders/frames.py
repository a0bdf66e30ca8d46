"""An image encoder applied to the frames of a video, one by one.

[N, F, 3, H, W] -> [N*F, 3, H, W] -> encoder -> [N, F, S, D], or one frame behind another [N, F*S, D]
"""

from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError


class FrameEncoder(nn.Module):
    """`encoder` takes [N, 3, H, W].  accept_images: an image [N, 3, H, W] counts as a video of one frame."""

    def __init__(self, encoder: nn.Module, accept_images: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.accept_images = accept_images

    def forward(self, frames: Tensor, **kwargs: Any) -> Tensor:
        """float [N, F, C, H, W] -> [N, F, S, D], or [N, F, D] if `encoder` pools.  ConfigError for other ranks."""
        if self.accept_images and frames.dim() == 4:
            frames = frames[:, None]
        if frames.dim() != 5:
            raise ConfigError(
                f"expected frames [N, F, 3, H, W] (audio: clips [N, C, 1, mels, T]), found {list(frames.shape)}"
            )
        features = self.encoder(frames.flatten(0, 1), **kwargs)
        return features.unflatten(0, frames.shape[:2])


class JoinedFrames(nn.Module):
    """`encoder` takes [N, 3, H, W]; the features of an item's frames follow one another (PaLI-X)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor, **kwargs: Any) -> Tensor:
        """Pictures [N, 3, H, W] -> [N, S, D]; frames [N, F, 3, H, W] -> [N, F * S, D].  ConfigError for other ranks."""
        if pixels.dim() not in (4, 5):
            raise ConfigError(f"expected pictures [N, 3, H, W] or frames [N, F, 3, H, W], found {list(pixels.shape)}")
        features: Tensor = self.encoder(pixels.flatten(0, -4), **kwargs)
        return features if pixels.dim() == 4 else features.unflatten(0, pixels.shape[:2]).flatten(1, 2)
