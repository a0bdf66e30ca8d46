"""Halves of codecs between pictures, classes or feature maps and vectors of codes (the tokenizers of 4M).

    [N, C, H, W] -> patches or single places -> + places -> blocks -> x + mlp(norm(x)), tanh -> [N, D, h, w]
    [N, D, h, w] -> + places -> blocks -> ... -> linear -> [N, C, H, W] -> two ConvNeXt blocks
    or place by place, none of which sees another: linear -> x + mlp(norm(x)) ... -> linear

Papers: 4M (arXiv 2312.06647), ViT-VQGAN (2110.04627), ConvNeXt (2201.03545), "Scaling MLPs" (2306.13575).
Traps: places are kept as a picture [1, D, h, w] and stretched for other sizes; eps is 1e-6 in blocks and 1e-5 place by
place; a patch is written channel by channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.convnext import ConvNeXtBlock, ConvNeXtConfig
from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.computed import computed_buffer
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig

NORM = LayerNormConfig(eps=1e-6)


@dataclass(frozen=True, kw_only=True)
class TokenViTConfig:
    """One half.  channels: of what comes in or goes out.  patch: its side, 1 for feature maps.  grid: patches for which
    its places were made.  tanh: a feed-forward part with tanh behind the blocks.  smooth: two convolution blocks behind
    what is written."""

    width: int
    depth: int
    heads: int
    channels: int
    patch: int
    grid: tuple[int, int]
    tanh: bool = False
    smooth: bool = False

    def block(self) -> PreNormBlockConfig:
        attention = AttentionConfig(width=self.width, heads=self.heads, qkv_bias=True, out_bias=True)
        mlp = MLPConfig(width=self.width, ffn_width=4 * self.width)
        return PreNormBlockConfig(attention=attention, mlp=mlp, norm=NORM)

    def build(self, writes: bool) -> TokenViT:
        return TokenViTWriter(self) if writes else TokenViTReader(self)


class TokenViT(nn.Module):
    """What both halves share."""

    positions: Tensor

    def __init__(self, config: TokenViTConfig):
        super().__init__()
        self.config = config
        width, grid = config.width, config.grid
        table = ModalityConfig(kind="grid", vocab_size=1, grid=grid)
        computed_buffer(self, "positions", lambda: table.table(width)[0].T.reshape(1, width, *grid).contiguous())
        self.blocks = nn.ModuleList(config.block().build() for _ in range(config.depth))
        mlp = MLPConfig(width=width, ffn_width=4 * width, activation="tanh")
        self.mlp_norm = NORM.build(width) if config.tanh else None
        self.mlp = mlp.build() if config.tanh else None

    def seen(self, x: Tensor) -> Tensor:
        """[N, D, h, w] -> tokens [N, h w, D] after the blocks."""
        places = F.interpolate(self.positions, size=x.shape[2:], mode="bicubic", align_corners=False)
        x = (x + places).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x if self.mlp is None or self.mlp_norm is None else x + self.mlp(self.mlp_norm(x))


class TokenViTReader(TokenViT):
    """[N, C, H, W] -> [N, D, h, w]"""

    def __init__(self, config: TokenViTConfig):
        super().__init__(config)
        self.proj = nn.Conv2d(config.channels, config.width, config.patch, config.patch)

    def forward(self, x: Tensor) -> Tensor:
        """Raises PromptError for other channels and for sides that patches do not fill."""
        patch, channels = self.config.patch, self.config.channels
        if x.dim() != 4 or x.shape[1] != channels or x.shape[2] % patch or x.shape[3] % patch:
            raise PromptError(f"codec: expected [N, {channels}, H, W] with sides in patches of {patch}, found "
                              f"{list(x.shape)}")  # fmt: skip
        x = self.proj(x)
        return self.seen(x).transpose(1, 2).unflatten(2, x.shape[2:])


class TokenViTWriter(TokenViT):
    """[N, D, h, w] -> [N, C, H, W]"""

    def __init__(self, config: TokenViTConfig):
        super().__init__(config)
        self.proj = nn.Linear(config.width, config.channels * config.patch**2)
        smooth = ConvNeXtConfig(eps=1e-6)
        self.smooth = nn.ModuleList(ConvNeXtBlock(smooth, config.channels) for _ in range(2 if config.smooth else 0))

    def forward(self, x: Tensor) -> Tensor:
        patch, (rows, columns) = self.config.patch, x.shape[2:]
        written = self.proj(self.seen(x)).unflatten(1, (rows, columns)).unflatten(3, (-1, patch, patch))
        written = written.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)  # [N, H, W, C]
        for block in self.smooth:
            written = block(written)
        return written.movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class PlaceMLPConfig:
    """Place by place.  source, target: channels that come in and go out."""

    width: int
    depth: int
    source: int
    target: int
    factor: int = 4

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.source, self.target, self.factor) < 1:
            raise ConfigError(f"place by place: sizes are 1 or more, found {self}")

    def build(self) -> PlaceMLP:
        return PlaceMLP(self)


class PlaceMLP(nn.Module):
    """[N, C, h, w] -> [N, C', h, w]"""

    def __init__(self, config: PlaceMLPConfig):
        super().__init__()
        width, norm = config.width, LayerNormConfig()
        mlp = MLPConfig(width=width, ffn_width=config.factor * width)
        self.config = config
        self.proj_in, self.proj_out = nn.Linear(config.source, width), nn.Linear(width, config.target)
        self.norms = nn.ModuleList(norm.build(width) for _ in range(config.depth))
        self.blocks = nn.ModuleList(mlp.build() for _ in range(config.depth))

    def forward(self, x: Tensor) -> Tensor:
        """Raises PromptError for other channels."""
        if x.dim() != 4 or x.shape[1] != self.config.source:
            raise PromptError(f"codec: expected [N, {self.config.source}, h, w], found {list(x.shape)}")
        states = self.proj_in(x.movedim(1, -1))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            states = states + block(norm(states))
        return self.proj_out(states).movedim(-1, 1)
