"""IDEFICS' image encoder: CLIP's ViT with another interpolation of positions for other image sizes.

    table [1 + g * g, D] -> bicubic with scale factors (h + 0.1) / g and (w + 0.1) / g -> [1 + h * w, D]

Trap: the sampling points follow the scale factors, not the output size, so the extra 0.1 shifts every position.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.encoders.vit import ViT


class IdeficsViT(ViT):
    """A ViT with a square grid and a class token; see the module docstring."""

    def positions_for(self, height: int, width: int) -> Tensor:
        """The position table [S, D] for a grid of `height` x `width` patches."""
        grid = self.config.grid
        if (height, width) == (grid, grid):
            return self.positions
        table = self.positions[1:].T.reshape(1, -1, grid, grid)
        factors = ((height + 0.1) / grid, (width + 0.1) / grid)
        table = F.interpolate(table.float(), scale_factor=factors, mode="bicubic", align_corners=False)
        return torch.cat((self.positions[:1], table[0].flatten(1).T.to(self.positions.dtype)))
