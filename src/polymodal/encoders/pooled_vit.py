"""A ViT of which only the pooled vector is used: `[N, 3, H, W] -> normed class token [N, V]` (GILL)."""

from __future__ import annotations

from torch import Tensor, nn

from polymodal.encoders.vit import ViTConfig


class PooledViT(nn.Module):
    """`[N, 3, H, W] -> [N, V]`; the config has a head with a norm and without a linear."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vit = config.build()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The pooled vector."""
        return self.vit.pool(self.vit(pixel_values))
