"""BEiT: a ViT that encodes patch positions as a bias on the attention scores instead of adding embeddings.

Paper: BEiT (arXiv 2106.08254).

Flow
    pixel_values [N, C, H, W] -> patch convolution with bias (masked patches: the mask token) -> class token prepended
    -> (+ absolute positions) -> blocks -> (final_norm) -> features [N, S, D]
    block: x + a * attn(norm(x), bias), x + m * mlp(norm(x)); a, m: learned vectors (layer scale), optional
    bias [heads, S, S]: one table row per (row offset, column offset); one table per block, or one shared by all

Traps
- The table ends with three more rows, in this order: class to patch, patch to class, class to class.
- Keys have no bias; queries and values do.
- With mean pooling there is no final norm: the norm belongs to the mean (classifier) or to the head (masked model).
- Images may have any size: the bias table (bilinear) and the absolute positions (bicubic) are resized.  A table for
  a rectangular window is resized with its sides swapped, as transformers does.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.vit import sides
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mask import PreparedMask
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig


@dataclass(frozen=True, kw_only=True)
class RelativePositionsConfig:
    """A relative position bias for a `window` of (height, width) patches and a class token."""

    window: tuple[int, int]
    heads: int

    def build(self) -> "RelativePositions":
        return RelativePositions(self)


class RelativePositions(nn.Module):
    """`forward(grid)`: biases `[1, heads, S, S]` for a grid of (height, width) patches, S = 1 + height * width."""

    def __init__(self, config: RelativePositionsConfig) -> None:
        super().__init__()
        height, width = config.window
        self.config = config
        self.table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1) + 3, config.heads))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        (height, width), (rows, columns) = self.config.window, (2 * grid[0] - 1, 2 * grid[1] - 1)
        table: Tensor = self.table
        if grid != self.config.window or height != width:
            plane = table[:-3].T.reshape(1, -1, 2 * width - 1, 2 * height - 1)
            plane = F.interpolate(plane, size=(rows, columns), mode="bilinear", align_corners=False)
            table = torch.cat((plane[0].flatten(1).T, table[-3:]))
        return table[pair_index(grid, table.device)].permute(2, 0, 1)[None]


def pair_index(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Table row of each (query, key) pair, int64 `[S, S]`; the class token is token 0."""
    height, width = grid
    last = (2 * height - 1) * (2 * width - 1)
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    down = y[:, None] - y[None, :] + height - 1
    across = x[:, None] - x[None, :] + width - 1
    index = torch.full((height * width + 1,) * 2, last + 1, device=device)
    index[1:, 1:] = down * (2 * width - 1) + across
    index[0, 1:] = last
    index[0, 0] = last + 2
    return index


@dataclass(frozen=True, kw_only=True)
class BeitBlockConfig:
    """`scale`: initial value of the layer scale, None: no layer scale.  `relative`: the bias table of this block."""

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=LayerNormConfig)
    scale: float | None = 0.1
    relative: RelativePositionsConfig | None = None

    def build(self) -> "BeitBlock":
        return BeitBlock(self)


class BeitBlock(nn.Module):
    """`[N, S, D] -> [N, S, D]`"""

    def __init__(self, config: BeitBlockConfig) -> None:
        super().__init__()
        width, scale = config.attention.width, config.scale
        self.attn_norm = config.norm.build(width)
        self.attn = config.attention.build()
        self.mlp_norm = config.norm.build(width)
        self.mlp = config.mlp.build()
        self.attn_scale = None if scale is None else nn.Parameter(torch.full((width,), scale))
        self.mlp_scale = None if scale is None else nn.Parameter(torch.full((width,), scale))
        self.relative = None if config.relative is None else config.relative.build()

    def forward(self, x: Tensor, grid: tuple[int, int], shared: Tensor | None = None) -> Tensor:
        """`grid`: (height, width) in patches.  `shared`: bias [1, heads, S, S] for all blocks, added to its own."""
        bias = None if self.relative is None else self.relative(grid)
        if shared is not None:
            bias = shared if bias is None else bias + shared
        mask = None if bias is None else PreparedMask(allow=bias)
        attn_out = self.attn(self.attn_norm(x), mask)
        x = x + (attn_out if self.attn_scale is None else self.attn_scale * attn_out)
        mlp_out = self.mlp(self.mlp_norm(x))
        return x + (mlp_out if self.mlp_scale is None else self.mlp_scale * mlp_out)


@dataclass(frozen=True, kw_only=True)
class BeitConfig:
    """A BEiT; sizes in pixels, one number or (height, width).  `relative`: a bias table shared by all blocks."""

    image_size: int | tuple[int, int]
    patch_size: int | tuple[int, int]
    width: int
    blocks: tuple[BeitBlockConfig, ...]
    channels: int = 3
    mask_token: bool = False
    positions: bool = False
    relative: RelativePositionsConfig | None = None
    final_norm: NormConfig | None = None

    def __post_init__(self) -> None:
        if 0 in self.grid:
            raise ConfigError(f"beit: image_size {self.image_size} is smaller than one patch of {self.patch_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of an image of `image_size`, in patches."""
        (height, width), (patch_height, patch_width) = sides(self.image_size), sides(self.patch_size)
        return height // patch_height, width // patch_width

    @property
    def tokens(self) -> int:
        """Features per image of `image_size`, class token included."""
        return self.grid[0] * self.grid[1] + 1

    def build(self) -> "Beit":
        """Build the encoder with fresh weights."""
        return Beit(self)


class Beit(nn.Module):
    """The encoder; see the module docstring for the flow."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.config = config
        patch, width = sides(config.patch_size), config.width
        self.patch_embed = nn.Conv2d(config.channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.mask_token = nn.Parameter(torch.zeros(width)) if config.mask_token else None
        self.positions = nn.Parameter(torch.zeros(config.tokens, width)) if config.positions else None
        self.relative = None if config.relative is None else config.relative.build()
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.final_norm = None if config.final_norm is None else config.final_norm.build(width)

    def forward(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, interpolate_pos_encoding: bool = False
    ) -> Tensor:
        """Features [N, S, D], class token first, of images [N, C, H, W] of any size.

        bool_masked_pos: [N, patches], 1 where the mask token replaces a patch.  interpolate_pos_encoding is accepted
        for compatibility with transformers and ignored: positions are always resized.  Raises ConfigError for other
        shapes.
        """
        x, grid, shared = self.start(pixel_values, bool_masked_pos)
        for block in self.blocks:
            x = block(x, grid, shared)
        return x if self.final_norm is None else self.final_norm(x)

    def start(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, int], Tensor | None]:
        """Input of the first block [N, S, D], the grid of patches, and the bias that all blocks share."""
        if pixel_values.dim() != 4 or pixel_values.shape[1] != self.config.channels:
            expected = f"[N, {self.config.channels}, H, W]"
            raise ConfigError(f"beit: pixel_values must be {expected}, found {list(pixel_values.shape)}")
        patches = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype))
        height, width = patches.shape[-2:]
        x = patches.flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ConfigError("beit: bool_masked_pos needs a model with a mask token (use_mask_token)")
            x = torch.where(bool_masked_pos.bool()[..., None], self.mask_token, x)
        x = torch.cat((self.class_token.expand(x.shape[0], 1, -1), x), dim=1)
        if self.positions is not None:
            x = x + self._resized_positions(self.positions, (height, width))
        return x, (height, width), None if self.relative is None else self.relative((height, width))

    def _resized_positions(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        if grid == self.config.grid:
            return table
        plane = table[1:].float().T.reshape(1, -1, *self.config.grid)
        plane = F.interpolate(plane, size=grid, mode="bicubic", align_corners=False)
        return torch.cat((table[:1], plane[0].flatten(1).T.to(table.dtype)))
