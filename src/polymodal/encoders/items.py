"""An image encoder for padded batches: [B, N, 3, H, W] (IDEFICS), [B, N, frames, 3, H, W] (OpenFlamingo, Otter).

    [items, 3, H, W] or [B, N, 3, H, W] -> [items, 3, H, W] -> encoder -> [items, S, D]
    [B, N, frames, 3, H, W] -> encoder, frame by frame -> [items, frames * S, D], or [items, frames, S, D]

The shape says which row an item belongs to; `fusion/visibility.py` uses that, the encoder does not.
"""

from typing import Any

from torch import Tensor, nn


class ItemEncoder(nn.Module):
    """Flattens all leading dimensions into one.  keep_frames: return the frames of an item as a dimension."""

    def __init__(self, encoder: nn.Module, keep_frames: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.keep_frames = keep_frames

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """float [..., C, H, W] -> [items, S, D], or [items, frames, S, D] with `keep_frames`."""
        features = self.encoder(pixel_values.flatten(0, -4), **kwargs)
        frames = pixel_values.shape[2] if pixel_values.dim() == 6 else 1
        features = features.unflatten(0, (-1, frames))
        return features if self.keep_frames else features.flatten(1, 2)
