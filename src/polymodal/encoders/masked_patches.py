"""Patch embeddings of padded images of unequal size: the only image encoder of ViLT (arXiv 2102.03334).

    pixel_values [N, C, H, W], pixel_mask [N, H, W] -> strided convolution -> patches [N, h*w, D]
    + position table, interpolated for each image to the grid of its real patches; class token prepended
    -> [N, 1 + h*w, D] and the mask [N, 1 + h*w] of real patches

Traps: the mask is downsampled to the grid by nearest neighbour; the table is interpolated bilinearly with aligned
corners to (real patches in the first column, real patches in the first row); padding patches are kept and masked.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class MaskedPatchesConfig:
    """Sizes in pixels; `limit`: maximum patches per image, a random subset is kept of more (None: keep all)."""

    image_size: int
    patch_size: int
    width: int
    channels: int = 3
    limit: int | None = None

    @property
    def grid(self) -> int:
        """Patches along one side of the position table."""
        return self.image_size // self.patch_size

    def build(self) -> "MaskedPatches":
        if self.grid < 1:
            raise ConfigError(f"patches: image_size {self.image_size} is smaller than one patch of {self.patch_size}")
        return MaskedPatches(self)


class MaskedPatches(nn.Module):
    """See the module docstring."""

    def __init__(self, config: MaskedPatchesConfig):
        super().__init__()
        self.config = config
        patch = config.patch_size
        self.patch_embed = nn.Conv2d(config.channels, config.width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(config.width))
        self.positions = nn.Parameter(torch.empty(config.grid**2 + 1, config.width))
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens `[N, S, D]` and their mask, int64 `[N, S]`; `pixel_mask` None: no padding."""
        channels = self.config.channels
        if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
            raise ConfigError(f"patches: pixel_values must be [N, {channels}, H, W], found {list(pixel_values.shape)}")
        patches = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype))
        rows, columns = patches.shape[-2:]
        real = self._real(pixel_mask, len(patches), (rows, columns), patches.device)
        x = patches.flatten(2).transpose(1, 2) + self._resized_positions(real)
        mask = real.flatten(1)
        if self.config.limit is not None and int(mask.sum(1).max()) > self.config.limit:
            x, mask = _subset(x, mask, self.config.limit)
        first = (self.class_token + self.positions[0]).expand(len(x), 1, -1)
        return torch.cat((first, x), 1), torch.cat((mask.new_ones(len(x), 1), mask), 1)

    def _real(self, mask: Tensor | None, count: int, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Real patches, int64 `[N, h, w]`."""
        if mask is None:
            return torch.ones(count, *grid, dtype=torch.long, device=device)
        return F.interpolate(mask[:, None].float(), size=grid)[:, 0].long()

    def _resized_positions(self, real: Tensor) -> Tensor:
        """Positions of each image `[N, h*w, D]`, zero beyond its real patches."""
        side = self.config.grid
        table = self.positions[1:].T.reshape(1, -1, side, side)
        height, width = real.shape[1:]
        tables = []
        for mask in real:
            size = (int(mask[:, 0].sum()), int(mask[0].sum()))
            resized = F.interpolate(table, size=size, mode="bilinear", align_corners=True)
            tables.append(F.pad(resized, (0, width - size[1], 0, height - size[0])))
        return torch.cat(tables).flatten(2).transpose(1, 2)


def _subset(x: Tensor, mask: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """A random choice of `limit` tokens per row; real tokens are preferred to padding."""
    order = (torch.rand(mask.shape, device=mask.device) + mask).argsort(1, descending=True)[:, :limit]
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1])), mask.gather(1, order)


PATCH_KEYS = KeyTable(
    (
        rename("cls_token", "class_token", Squeeze(0), Squeeze(0)),
        rename("position_embeddings", "positions", Squeeze(0)),
        rename("patch_embeddings.projection.weight", "patch_embed.weight"),
        rename("patch_embeddings.projection.bias", "patch_embed.bias"),
    )
)
"""transformers' names -> ours."""
