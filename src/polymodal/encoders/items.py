"""Pictures that come as one padded table: [B, N, 3, H, W] (IDEFICS), [B, N, frames, 3, H, W] (OpenFlamingo).

    [B, N, (1,) 3, H, W] or [items, 3, H, W] -> [items, 3, H, W] -> encoder -> [items, S, D]

Who owns which item is known from the table's shape and read in `fusion/visibility.py`; the encoder sees items only.
"""

from typing import Any

from torch import Tensor, nn


class ItemEncoder(nn.Module):
    """An encoder of pictures whose leading dimensions may be several; they become one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor, **more: Any) -> Tensor:
        """float [..., C, H, W] -> [items, S, D]."""
        return self.encoder(pixel_values.flatten(0, -4), **more)
