"""ViT-Adapter: feature maps of four sizes from a plain Vision Transformer, by a small path beside it.

Paper: ViT-Adapter (arXiv 2205.08534); as MM-Interleaved puts it beside CLIP (2401.10208).

    pixel_values -> ViT's embedding -> class token apart, patches [N, g * g, D]
    the same picture, 16 pixels for each patch -> convolutions -> c1 (4 g)^2, and c = c2 (2 g)^2, c3 g^2, c4 (g / 2)^2
    four times:  patches += gamma * deformable attention to c  ->  a quarter of the blocks, class token included
                 c += deformable attention to the patches;  c += convolutional feed-forward         (twice more at last)
    -> tokens [N, 1 + g * g, D]; maps [N, D, s, s] of sides 4 g, 2 g, g, g / 2, each with the patches of one of the four
       stages, resized, added

Traps: the picture is resized before the convolutions (224 -> 256 for patches of 14); norms of channels have epsilon
1e-6 and are computed in float32, the others 1e-5; gamma starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.vit import ViT, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.deformable import NAMES, DeformableAttentionConfig
from polymodal.nn.norm import LayerNorm
from polymodal.weights.keytable import KeyTable, Row, rename

STAGES = 4
MAPS = 3  # that the patches look at


class MultiscaleFeatures(NamedTuple):
    """tokens [N, S, D], class token first; maps [N, D, s, s], the largest first."""

    tokens: Tensor
    maps: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class ViTAdapterConfig:
    """vit: with a class token and as many layers as four stages can share.  inner: width of the first convolutions."""

    vit: ViTConfig
    heads: int
    points: int = 4
    inner: int = 64

    def __post_init__(self) -> None:
        if len(self.vit.blocks) % STAGES or not self.vit.class_token:
            raise ConfigError(f"vit adapter: expected a class token and a multiple of {STAGES} layers, found "
                              f"{len(self.vit.blocks)} layers")  # fmt: skip
        if self.vit.grid % 2:
            raise ConfigError(f"vit adapter: expected an even number of patches a side, found {self.vit.grid}")

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the maps."""
        return tuple(self.vit.grid * factor // 2 for factor in (8, 4, 2, 1))

    def build(self) -> ViTAdapter:
        return ViTAdapter(self)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [N, C, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.movedim(1, -1).float(), self.weight.shape, self.weight.float(), self.bias.float(), 1e-6)
        return normed.movedim(-1, 1).to(x.dtype)


class ConvStep(nn.Module):
    """Convolution 3 x 3, norm of channels, ReLU."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class SpatialPrior(nn.Module):
    """A picture [N, 3, 16 g, 16 g] -> maps of sides 4 g, 2 g, g, g / 2, all of width D."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.stem = nn.ModuleList((ConvStep(3, inner, 2), ConvStep(inner, inner, 1), ConvStep(inner, inner, 1)))
        self.steps = nn.ModuleList(
            (ConvStep(inner, 2 * inner, 2), ConvStep(2 * inner, 4 * inner, 2), ConvStep(4 * inner, 4 * inner, 2))
        )
        widths = (inner, 2 * inner, 4 * inner, 4 * inner)
        self.projections = nn.ModuleList(nn.Conv2d(each, width, 1) for each in widths)

    def forward(self, picture: Tensor) -> list[Tensor]:
        x = picture
        for step in self.stem:
            x = step(x)
        maps = [F.max_pool2d(x, 3, stride=2, padding=1)]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return [project(each) for project, each in zip(self.projections, maps, strict=True)]


class ConvFeedForward(nn.Module):
    """Two linears with a convolution of each channel between them, on three maps one behind the other."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(width, inner), nn.Linear(inner, width)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)

    def forward(self, x: Tensor, sides: Sequence[int]) -> Tensor:
        parts = self.up_proj(x).split([side * side for side in sides], 1)
        mixed = [flattened(self.conv(as_map(part, side))) for part, side in zip(parts, sides, strict=True)]
        return self.down_proj(F.gelu(torch.cat(mixed, 1)))


class Injector(nn.Module):
    """Patches look at the three maps."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        width = config.vit.width
        self.query_norm, self.feature_norm = LayerNorm(width), LayerNorm(width)
        self.attn = DeformableAttentionConfig(
            width=width, heads=config.heads, levels=MAPS, points=config.points, inner_width=width // 2
        ).build()
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, patches: Tensor, maps: Tensor, places: Tensor, sides: Sequence[int]) -> Tensor:
        seen = self.attn(self.query_norm(patches), places, self.feature_norm(maps), sides)
        return patches + self.gamma * seen


class Extractor(nn.Module):
    """The three maps look at the patches."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        width = config.vit.width
        self.query_norm, self.feature_norm, self.mlp_norm = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.attn = DeformableAttentionConfig(
            width=width, heads=config.heads, levels=1, points=config.points, inner_width=width // 2
        ).build()
        self.mlp = ConvFeedForward(width, width // 4)

    def forward(self, maps: Tensor, patches: Tensor, places: Tensor, sides: Sequence[int], grid: int) -> Tensor:
        maps = maps + self.attn(self.query_norm(maps), places, self.feature_norm(patches), (grid,))
        return maps + self.mlp(self.mlp_norm(maps), sides)


class ViTAdapter(nn.Module):
    """See the module docstring."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.vit.width
        self.vit: ViT = config.vit.build()
        self.prior = SpatialPrior(config.inner, width)
        self.levels = nn.Parameter(torch.zeros(MAPS, width))
        self.injectors = nn.ModuleList(Injector(config) for _ in range(STAGES))
        self.extractors = nn.ModuleList(Extractor(config) for _ in range(STAGES + 2))
        self.up = nn.ConvTranspose2d(width, width, 2, 2)

    def forward(self, pixel_values: Tensor) -> MultiscaleFeatures:
        """float [N, 3, H, W] of the encoder's own size."""
        grid, (_, *sides) = self.config.vit.grid, self.config.sides
        x = self.vit.embed(pixel_values)
        token, patches = x[:, :1], x[:, 1:]
        picture = F.interpolate(pixel_values, size=(16 * grid, 16 * grid), mode="bilinear", align_corners=False)
        first, *rest = self.prior(picture)
        maps = torch.cat([flattened(each) + level for each, level in zip(rest, self.levels, strict=True)], 1)
        patch_places = middles(grid, x.device)
        map_places = torch.cat([middles(side, x.device) for side in sides])
        stages = []
        per_stage = len(self.vit.blocks) // STAGES
        for index, injector in enumerate(self.injectors):
            patches = injector(patches, maps, patch_places, sides)
            x = torch.cat((token, patches), 1)
            for block in self.vit.blocks[index * per_stage : (index + 1) * per_stage]:
                x = block(x)
            token, patches = x[:, :1], x[:, 1:]
            for extractor in self.extractors[index : len(self.extractors) if index == STAGES - 1 else index + 1]:
                maps = extractor(maps, patches, map_places, sides, grid)
            stages.append(as_map(patches, grid))
        parts = maps.split([side * side for side in sides], 1)
        found = [as_map(part, side) for part, side in zip(parts, sides, strict=True)]
        found = [self.up(found[0]) + first, *found]
        return MultiscaleFeatures(
            x, tuple(each + resized(stage, each.shape[-1]) for each, stage in zip(found, stages, strict=True))
        )


def resized(x: Tensor, side: int) -> Tensor:
    """[N, D, g, g] -> [N, D, side, side], bilinearly."""
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def as_map(x: Tensor, side: int) -> Tensor:
    """[N, side * side, D] -> [N, D, side, side]"""
    return x.transpose(1, 2).unflatten(-1, (side, side)).contiguous()


def flattened(x: Tensor) -> Tensor:
    """[N, D, h, w] -> [N, h * w, D]"""
    return x.flatten(2).transpose(1, 2)


def middles(side: int, device: Any) -> Tensor:
    """(x, y) of the middle of each cell of a square grid, row by row, in 0..1: [side * side, 2]."""
    line = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
    return torch.stack((line.expand(side, side), line[:, None].expand(side, side)), -1).flatten(0, 1)


def official_keys(vit: KeyTable) -> KeyTable:
    """Names below `vision_model.` -> ViTAdapter; vit: the table of the encoder itself."""
    rows: list[Row] = [rename("adapter_level_embed", "levels")]
    for index, step in enumerate((0, 3, 6)):
        rows += _step(f"adapter_spm.stem.{step}", f"adapter_spm.stem.{step + 1}", f"prior.stem.{index}")
    for index in range(3):
        rows += _step(f"adapter_spm.conv{index + 2}.0", f"adapter_spm.conv{index + 2}.1", f"prior.steps.{index}")
    rows += [row for i in range(4) for row in _both(f"adapter_spm.fc{i + 1}", f"prior.projections.{i}")]
    rows += _both("adapter_up", "up")
    table = KeyTable(tuple(rows))
    places = [(f"adapter_interactions.{index}.extractor", index) for index in range(STAGES)]
    places += [(f"adapter_interactions.{STAGES - 1}.extra_extractors.{index}", STAGES + index) for index in range(2)]
    for index in range(STAGES):
        theirs, ours = f"adapter_interactions.{index}.injector", f"injectors.{index}"
        table += KeyTable((rename(f"{theirs}.gamma", f"{ours}.gamma"), *_norms(theirs, ours)))
        table += _deformable(theirs, ours)
    for theirs, index in places:
        ours = f"extractors.{index}"
        table += KeyTable((*_norms(theirs, ours), *_both(f"{theirs}.ffn_norm", f"{ours}.mlp_norm"),
                           *_both(f"{theirs}.ffn.fc1", f"{ours}.mlp.up_proj"),
                           *_both(f"{theirs}.ffn.dwconv.dwconv", f"{ours}.mlp.conv"),
                           *_both(f"{theirs}.ffn.fc2", f"{ours}.mlp.down_proj")))  # fmt: skip
        table += _deformable(theirs, ours)
    return table + vit.prefixed("", "vit.")


def _both(theirs: str, ours: str) -> list[Row]:
    return [rename(f"{theirs}.{leaf}", f"{ours}.{leaf}") for leaf in ("weight", "bias")]


def _deformable(theirs: str, ours: str) -> KeyTable:
    return KeyTable(
        tuple(row for name, own in NAMES.items() for row in _both(f"{theirs}.attn.{name}", f"{ours}.attn.{own}"))
    )


def _norms(theirs: str, ours: str) -> list[Row]:
    return _both(f"{theirs}.query_norm", f"{ours}.query_norm") + _both(f"{theirs}.feat_norm", f"{ours}.feature_norm")


def _step(convolution: str, norm: str, ours: str) -> list[Row]:
    return [rename(f"{convolution}.weight", f"{ours}.conv.weight"), *_both(norm, f"{ours}.norm")]
