"""The Vision Transformer family: patches of an image -> transformer -> one feature per patch.

Paper: ViT (arXiv 2010.11929).  `clip_vit.py` and `google_vit.py` hold published sizes and key tables.

Flow
    pixel_values [N, 3, H, W] -> convolution P x P, stride P -> patches [N, h*w, D], row-major
    -> class token prepended -> + learned positions -> pre_norm -> blocks, each x + attn(norm(x)), x + mlp(norm(x))
    -> state at `layer` -> final_norm -> (class token dropped) -> features [N, S, D]
    pool(features) [N, D'] from the class token -> project(pooled) [N, E]: class logits or the joint space

The config selects the optional steps: ViT has final_norm over all tokens; CLIP has pre_norm and normalises only the
pooled class token (`head.norm`); LLaVA uses layer -2 of CLIP without the class token.

Traps
- `layer` is an index into transformers' `hidden_states`: 0 is the input of the first block, -1 the output of the
  last, -2 the INPUT of the last block.  `final_norm` applies only if all blocks ran.
- Positions are resized bicubically (no antialiasing, corners not aligned) in float32; the class row is kept.
  For a model that always runs at another size, use `ResizePositions` in its key table instead.
- Pixels beyond a multiple of the patch size are ignored, as in any strided convolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.activation import activation
from polymodal.nn.grid_table import resized
from polymodal.nn.mask import PreparedMask
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig


class VisionBlockConfig(Protocol):
    """Config of one of a ViT's `blocks`: `build()` returns a module called as `f(x)`, [N, S, D] -> [N, S, D]."""

    def build(self) -> nn.Module: ...


class BlockAttentionConfig(Protocol):
    """Config of a block's `attention`, such as AttentionConfig: `build()` returns a module called as `f(x, mask)`."""

    @property
    def width(self) -> int: ...

    @property
    def heads(self) -> int: ...

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class ViTBlockConfig:
    """One pre-norm block."""

    attention: BlockAttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=LayerNormConfig)

    def build(self) -> "ViTBlock":
        """Build the block with fresh weights."""
        return ViTBlock(self)


@dataclass(frozen=True, kw_only=True)
class ClassHeadConfig:
    """The head on the class token: norm, dense layer ("pre-logits"), activation, final linear; all optional."""

    norm: NormConfig | None = None
    hidden_width: int | None = None
    activation: str = "tanh"
    out_width: int | None = None
    bias: bool = True

    def build(self, width: int) -> "ClassHead":
        """Build the head for features of `width`."""
        return ClassHead(self, width)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A ViT; sizes in pixels, one number or (height, width).

    `layer`, `keep_class`: which features are returned, see the module's traps; several layers are concatenated along
    the width.  `skip`: leading features to drop (LLaVA's default with SigLIP, which has no class token).
    `mask_token`: a learned vector that replaces masked patches (masked image modelling).
    """

    image_size: int | tuple[int, int]
    patch_size: int | tuple[int, int]
    width: int
    blocks: tuple[VisionBlockConfig, ...]
    patch_bias: bool = True
    class_token: bool = True
    pre_norm: NormConfig | None = None
    final_norm: NormConfig | None = None
    head: ClassHeadConfig | None = None
    layer: int | tuple[int, ...] = -1
    keep_class: bool = True
    resize_positions: bool = False
    channels: int = 3
    mask_token: bool = False
    skip: int = 0

    def __post_init__(self) -> None:
        if 0 in self.grid_sides:
            raise ConfigError(f"vit: image_size {self.image_size} is smaller than one patch of {self.patch_size}")
        for layer in self._layers:
            if not -len(self.blocks) - 1 <= layer <= len(self.blocks):
                raise ConfigError(f"vit: layer {layer} does not exist with {len(self.blocks)} blocks")

    @property
    def grid(self) -> int:
        """Side of the square grid of an image of `image_size`, in patches; raises ConfigError if it is not square."""
        height, width = self.grid_sides
        if height != width:
            raise ConfigError(f"vit: expected a square grid, found {height} x {width} patches; read grid_sides")
        return height

    @property
    def grid_sides(self) -> tuple[int, int]:
        """(height, width) of an image of `image_size`, in patches."""
        (height, width), (patch_height, patch_width) = sides(self.image_size), sides(self.patch_size)
        return height // patch_height, width // patch_width

    @property
    def patches(self) -> int:
        """Patches per image of `image_size`."""
        height, width = self.grid_sides
        return height * width

    @property
    def tokens(self) -> int:
        """Features per image of `image_size`."""
        return self.patches + int(self.class_token and self.keep_class) - self.skip

    @property
    def blocks_run(self) -> int:
        """Number of blocks that must run for `layer`."""
        return max(self.states)

    @property
    def states(self) -> tuple[int, ...]:
        """Indices into the hidden states, one per selected layer; state i is the output of i blocks."""
        return tuple(layer if layer >= 0 else len(self.blocks) + 1 + layer for layer in self._layers)

    @property
    def out_width(self) -> int:
        """Width of the features; several layers are concatenated."""
        return self.width * len(self._layers)

    @property
    def _layers(self) -> tuple[int, ...]:
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    def build(self) -> "ViT":
        """Build the encoder with fresh weights; blocks after `layer` are built too, so that all weights load."""
        return ViT(self)


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size that is one number or a pair."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


class ViTBlock(nn.Module):
    """`x + attn(norm(x))`, then `x + mlp(norm(x))`; without a mask, attention is bidirectional."""

    def __init__(self, config: ViTBlockConfig) -> None:
        super().__init__()
        self.attn_norm = config.norm.build(config.attention.width)
        self.attn = config.attention.build()
        self.mlp_norm = config.norm.build(config.attention.width)
        self.mlp = config.mlp.build()

    def forward(self, x: Tensor, mask: PreparedMask | None = None) -> Tensor:
        """[N, S, D] -> [N, S, D]."""
        x = x + self.attn(self.attn_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


class ClassHead(nn.Module):
    """`pool`: class token -> vector; `forward`: vector -> logits or embedding."""

    def __init__(self, config: ClassHeadConfig, width: int) -> None:
        super().__init__()
        self.norm = None if config.norm is None else config.norm.build(width)
        self.dense = None if config.hidden_width is None else nn.Linear(width, config.hidden_width)
        pooled = config.hidden_width or width
        self.act = activation(config.activation)
        self.proj = None if config.out_width is None else nn.Linear(pooled, config.out_width, bias=config.bias)

    def pool(self, features: Tensor) -> Tensor:
        """[N, S, D] -> [N, D'], from the first token."""
        x = features[:, 0]
        if self.norm is not None:
            x = self.norm(x)
        return x if self.dense is None else self.act(self.dense(x))

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, D'] -> [N, E]."""
        if self.proj is None:
            raise ConfigError("vit: this head has no final linear; set out_width in its config")
        return self.proj(pooled)


class ViT(nn.Module):
    """The encoder; see the module docstring for the flow."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        patch, width = sides(config.patch_size), config.width
        self.patch_embed = nn.Conv2d(config.channels, width, patch, stride=patch, bias=config.patch_bias)
        self.class_token = nn.Parameter(torch.zeros(width)) if config.class_token else None
        self.mask_token = nn.Parameter(torch.zeros(width)) if config.mask_token else None
        self.positions = nn.Parameter(torch.empty(config.patches + int(config.class_token), width))
        nn.init.normal_(self.positions, std=0.02)
        self.pre_norm = None if config.pre_norm is None else config.pre_norm.build(width)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.final_norm = None if config.final_norm is None else config.final_norm.build(width)
        self.head = None if config.head is None else config.head.build(width)

    def forward(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, interpolate_pos_encoding: bool | None = None
    ) -> Tensor:
        """Encode images: float [N, C, H, W], normalised, to features [N, S, D]; S is `config.tokens`.

        bool_masked_pos: [N, patches], 1 where the mask token replaces a patch.  interpolate_pos_encoding: H and W may
        differ from `image_size`, then S is (H // P) * (W // P) plus the class token; None: `resize_positions` of the
        config.  Raises ConfigError for another size without it.
        """
        x = self.embed(pixel_values, bool_masked_pos, interpolate_pos_encoding)
        states = {0: x} if 0 in self.config.states else {}
        for index, block in enumerate(self.blocks[: self.config.blocks_run], start=1):
            x = block(x)
            if index in self.config.states:
                states[index] = x
        if self.final_norm is not None and len(self.blocks) in states:
            states[len(self.blocks)] = self.final_norm(x)
        x = torch.cat([states[index] for index in self.config.states], -1)
        return x[:, self.config.skip + int(self.config.class_token and not self.config.keep_class) :]

    def hidden_states(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """All depth + 1 hidden states [N, S, D], class token included, before `final_norm`."""
        states = [self.embed(pixel_values)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return tuple(states)

    def embed(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, interpolate_pos_encoding: bool | None = None
    ) -> Tensor:
        """Input of the first block: [N, C, H, W] -> [N, S, D], class token included."""
        resize = self.config.resize_positions if interpolate_pos_encoding is None else interpolate_pos_encoding
        self._check_size(pixel_values, resize)
        patches = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype))
        height, width = patches.shape[-2:]
        x = patches.flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ConfigError("vit: bool_masked_pos needs a model with a mask token (masked image modelling)")
            x = torch.where(bool_masked_pos.bool()[..., None], self.mask_token, x)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], 1, -1), x), dim=1)
        x = x + self.positions_for(height, width)
        return x if self.pre_norm is None else self.pre_norm(x)

    def positions_for(self, height: int, width: int) -> Tensor:
        """The position table [S, D] for a grid of `height` x `width` patches."""
        grid = self.config.grid_sides
        if (height, width) == grid:
            return self.positions
        leading = int(self.config.class_token)
        return torch.cat((self.positions[:leading], resized(self.positions[leading:], grid, (height, width))))

    def pool(self, features: Tensor) -> Tensor:
        """Features [N, S, D] of the last layer, class token included, -> [N, D']; raises ConfigError without them."""
        if self.head is None:
            raise ConfigError("vit: pool needs a head in the config")
        has_class = self.config.class_token and self.config.keep_class
        if not has_class or self.config.blocks_run != len(self.blocks):
            raise ConfigError("vit: pool needs the class token of the last layer (layer=-1, keep_class=True)")
        return self.head.pool(features)

    def project(self, pooled: Tensor) -> Tensor:
        """[N, D'] -> [N, E]: class logits, or CLIP's joint space (not normalised)."""
        if self.head is None:
            raise ConfigError("vit: project needs a head in the config")
        return self.head(pooled)

    def joint(self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = None) -> Tensor:
        """Images [N, C, H, W] -> vectors [N, E] in the joint space, not normalised."""
        return self.project(self.pool(self(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)))

    @property
    def classifies(self) -> bool:
        """Whether `classify` returns class logits."""
        return self.head is not None and self.head.proj is not None

    def classify(self, features: Tensor) -> Tensor:
        """`pool`, then `project`: [N, S, D] -> [N, E]; a head without final linear returns the pooled vector."""
        pooled = self.pool(features)
        return pooled if self.head is None or self.head.proj is None else self.head(pooled)

    def _check_size(self, pixel_values: Tensor, resize: bool) -> None:
        size, channels = sides(self.config.image_size), self.config.channels
        if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
            raise ConfigError(f"vit: pixel_values must be [N, {channels}, H, W], found {list(pixel_values.shape)}")
        if not resize and tuple(pixel_values.shape[2:]) != size:
            actual = " x ".join(str(side) for side in pixel_values.shape[2:])
            raise ConfigError(
                f"vit: expected images of {size[0]} x {size[1]} pixels, found {actual}; "
                "resize them, or set resize_positions=True (interpolate_pos_encoding in a call)"
            )
