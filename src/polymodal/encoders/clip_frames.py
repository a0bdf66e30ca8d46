"""CLIP's image encoder for videos too: in every block the frames of a place see each other (CoDi).

    pixel_values [N, 3, H, W] -> CLIP -> [N, E];   [N, F, 3, H, W] -> each block: attention within a frame, then
    `FrameMixing` over the frames of each place, then the MLP -> mean over frames -> pooled, projected [N, E]

Traps: a picture leaves the mixing out, so it has CLIP's own vector; a video of one frame does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymodal.encoders.vit import ViTBlock, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.frame_mixing import FrameMixing


class ClipFrames(nn.Module):
    """vit: with a head that projects.  Heads of the mixing are those of the blocks."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vit = config.build()
        heads = [block.attention.heads for block in config.blocks]  # type: ignore[attr-defined]
        self.mixings = nn.ModuleList(FrameMixing(config.width, each, config.width // each) for each in heads)

    def joint(self, pixel_values: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] or videos [N, F, 3, H, W] -> [N, E], not of unit length.  Raises ConfigError."""
        if pixel_values.dim() == 4:
            return self.vit.joint(pixel_values)
        if pixel_values.dim() != 5:
            raise ConfigError(f"clip: expected pictures [N, 3, H, W] or videos [N, F, 3, H, W], found "
                              f"{list(pixel_values.shape)}")  # fmt: skip
        count, frames = pixel_values.shape[:2]
        x = self.vit.embed(pixel_values.flatten(0, 1))
        for block, mixing in zip(self.blocks, self.mixings, strict=True):
            x = x + block.attn(block.attn_norm(x))
            x = self.mixed(x, mixing, frames)
            x = x + block.mlp(block.mlp_norm(x))
        x = x.unflatten(0, (count, frames)).mean(1)
        return self.vit.project(self.vit.pool(x))

    @property
    def blocks(self) -> list[ViTBlock]:
        """CLIP's own."""
        return [block for block in self.vit.blocks if isinstance(block, ViTBlock)]

    @staticmethod
    def mixed(x: Tensor, mixing: nn.Module, frames: int) -> Tensor:
        """`[N * F, S, D]` with the frames of each place mixed."""
        places = x.unflatten(0, (-1, frames)).transpose(1, 2)
        x = mixing(places.flatten(0, 1)).unflatten(0, places.shape[:2])
        return x.transpose(1, 2).flatten(0, 1)


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
