"""Pictures that come as one padded table: [B, N, 3, H, W] (IDEFICS), [B, N, frames, 3, H, W] (OpenFlamingo, Otter).

    [items, 3, H, W] or [B, N, 3, H, W] -> [items, 3, H, W] -> encoder -> [items, S, D]
    [B, N, frames, 3, H, W] -> encoder, frame by frame -> [items, frames * S, D], or [items, frames, S, D]

Who owns which item is known from the table's shape and read in `fusion/visibility.py`; the encoder sees pictures only.
"""

from typing import Any

from torch import Tensor, nn


class ItemEncoder(nn.Module):
    """An encoder of pictures whose leading dimensions may be several.  framed: keep the frames of an item apart."""

    def __init__(self, encoder: nn.Module, framed: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.framed = framed

    def forward(self, pixel_values: Tensor, **more: Any) -> Tensor:
        """float [..., C, H, W] -> [items, S, D], or [items, frames, S, D] when `framed`."""
        found = self.encoder(pixel_values.flatten(0, -4), **more)
        frames = pixel_values.shape[2] if pixel_values.dim() == 6 else 1
        found = found.unflatten(0, (-1, frames))
        return found if self.framed else found.flatten(1, 2)
