"""Object Scene Representation Transformer: a few posed views of a scene -> one vector (slot) for each of its objects.

Papers: OSRT (arXiv 2206.06922), the encoder with the improvements of its appendix A.4; Slot Attention (2006.15055).

    posed views [N, V, H, W, 9]: colour 0..1, where the ray of the pixel starts, its direction
        -> colour | sines and cosines of start and direction -> convolutions, each block halves the sides
        -> patches of all views together -> pre-norm transformer [N, V*h*w, D]        (no norm behind it)
        -> slot attention: slots compete for patches, a GRU takes what each got [N, K, D']

Traps: the softmax is over the slots, then what each slot got is divided by its sum; slots start from learned vectors,
not at random; places are given in no unit, `start_octave` is the slowest sine and depends on the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.constant import constant
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split

CHANNELS = 9  # of a pixel: colour, start of its ray, direction of its ray
FLOOR = 1e-8  # what a slot gets of every patch at least


@dataclass(frozen=True, kw_only=True)
class OSRTConfig:
    """image_size: (height, width) of every view.  channels: behind each block of convolutions; the first begins with
    half of the first.  octaves: sines of each coordinate.  iterations: rounds of slot attention."""

    image_size: tuple[int, int] = (240, 320)
    channels: tuple[int, ...] = (192, 384, 768)
    width: int = 768
    depth: int = 5
    heads: int = 12
    ffn_width: int = 1536
    octaves: int = 15
    start_octave: int = 0
    slots: int = 6
    slot_width: int = 1536
    slot_ffn_width: int = 3072
    iterations: int = 1

    def __post_init__(self) -> None:
        step = 2 ** len(self.channels)
        if not self.channels or any(side < step or side % step for side in self.image_size):
            raise ConfigError(f"osrt: image_size {self.image_size}: expected multiples of {step}, one halving a block")

    def build(self) -> OSRT:
        return OSRT(self)


class OSRT(nn.Module):
    """See the module docstring."""

    def __init__(self, config: OSRTConfig) -> None:
        super().__init__()
        self.config = config
        first = 3 + 2 * (CHANNELS - 3) * config.octaves
        widths = (first, *config.channels)
        inner = (config.channels[0] // 2, *config.channels[:-1])
        self.convs = nn.ModuleList(
            nn.ModuleList((nn.Conv2d(seen, middle, 3, padding=1, bias=False),
                           nn.Conv2d(middle, out, 3, stride=2, padding=1, bias=False)))
            for (seen, out), middle in zip(pairwise(widths), inner, strict=True)
        )  # fmt: skip
        self.patch_proj = nn.Conv2d(widths[-1], config.width, 1)
        block = PreNormBlockConfig(
            attention=AttentionConfig(width=config.width, heads=config.heads, out_bias=True),
            mlp=MLPConfig(width=config.width, ffn_width=config.ffn_width), norm=LayerNormConfig(eps=1e-5)
        )  # fmt: skip
        self.blocks = nn.ModuleList(block.build() for _ in range(config.depth))
        self.slot_attention = SlotAttention(config)

    def forward(self, views: Tensor) -> Tensor:
        """float [N, V, H, W, 9] -> slots [N, K, D']."""
        return self.slot_attention(self.scene(views))

    def scene(self, views: Tensor) -> Tensor:
        """The set of patches that stands for the scene: [N, V, H, W, 9] -> [N, V * h * w, D]."""
        x = views.to(self.patch_proj.weight.dtype).flatten(0, 1)
        starts, rays = (self._waves(x[..., i : i + 3]) for i in (3, 6))
        x = torch.cat((x[..., :3], starts, rays), -1).permute(0, 3, 1, 2)
        for pair in self.convs:
            for conv in pair.children():
                x = conv(x).relu()
        x = self.patch_proj(x).flatten(2).transpose(1, 2)
        x = x.unflatten(0, views.shape[:2]).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        return x

    def _waves(self, places: Tensor) -> Tensor:
        """[..., 3] -> sines, then cosines [..., 6 * octaves], the octaves of a coordinate side by side."""
        octaves = range(self.config.start_octave, self.config.start_octave + self.config.octaves)
        factors = constant(tuple(2.0**octave * math.pi for octave in octaves), torch.float32, places.device)
        angles = (places.float()[..., None] * factors).flatten(-2)
        return torch.cat((angles.sin(), angles.cos()), -1).to(places.dtype)


class SlotAttention(nn.Module):
    """`[N, S, D] -> [N, K, D']`"""

    def __init__(self, config: OSRTConfig) -> None:
        super().__init__()
        width, seen = config.slot_width, config.width
        self.iterations = config.iterations
        self.slots = nn.Parameter(torch.randn(config.slots, width))
        self.q_proj = Linear(width, width, bias=False)
        self.k_proj, self.v_proj = (Linear(seen, width, bias=False) for _ in range(2))
        self.gru = nn.GRUCell(width, width)
        self.mlp = MLPConfig(width=width, ffn_width=config.slot_ffn_width, activation="relu").build()
        norm = LayerNormConfig(eps=1e-5)
        self.input_norm, self.slot_norm, self.mlp_norm = norm.build(seen), norm.build(width), norm.build(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_norm(x)
        keys, values = self.k_proj(x), self.v_proj(x)
        slots = self.slots.expand(len(x), -1, -1)
        for _ in range(self.iterations):
            queries = self.q_proj(self.slot_norm(slots))
            shares = (queries @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5).softmax(1) + FLOOR
            taken = shares / shares.sum(-1, keepdim=True) @ values
            slots = self.gru(taken.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.mlp_norm(slots))
        return slots


def parse_config(config: Mapping[str, Any]) -> OSRTConfig:
    """A table of OSRTConfig's fields; raises ConfigError for one that it does not have."""
    known = OSRTConfig.__dataclass_fields__
    if unknown := set(config) - set(known):
        raise ConfigError(f"osrt_config: {sorted(unknown)} is not supported; it takes {', '.join(known)}")
    given: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in config.items()}
    return OSRTConfig(**given)


def keys(config: OSRTConfig) -> KeyTable:
    """Names of the reimplementation github.com/stelzner/osrt -> ours."""
    encoder, layer, ours = "srt_encoder", "srt_encoder.transformer.layers.{}", "blocks.{}"
    names = {f"{encoder}.per_patch_linear": "patch_proj", f"{layer}.0.norm": f"{ours}.attn_norm",
             f"{layer}.0.fn.to_out.0": f"{ours}.attn.o_proj", f"{layer}.1.norm": f"{ours}.mlp_norm",
             f"{layer}.1.fn.net.0": f"{ours}.mlp.up_proj", f"{layer}.1.fn.net.3": f"{ours}.mlp.down_proj",
             "slot_attention.mlp.0": "slot_attention.mlp.up_proj",
             "slot_attention.mlp.2": "slot_attention.mlp.down_proj",
             "slot_attention.norm_input": "slot_attention.input_norm",
             "slot_attention.norm_slots": "slot_attention.slot_norm",
             "slot_attention.norm_pre_mlp": "slot_attention.mlp_norm"}  # fmt: skip
    rows: list[Row] = [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in names.items() for leaf in ("weight", "bias")]
    for theirs, mine in ((0, 0), (2, 1)):
        rows.append(rename(f"{encoder}.conv_blocks.{{}}.layers.{theirs}.weight", f"convs.{{}}.{mine}.weight"))
    rows.append(split(f"{layer}.0.fn.to_qkv.weight", [f"{ours}.attn.{x}_proj.weight" for x in "qkv"]))
    rows += [rename(f"slot_attention.to_{x}.weight", f"slot_attention.{x}_proj.weight") for x in "qkv"]
    gru = [f"{side}_{leaf}" for side in ("weight", "bias") for leaf in ("ih", "hh")]
    rows += [rename(f"slot_attention.gru.{name}", f"slot_attention.gru.{name}") for name in gru]
    return KeyTable((*rows, rename("slot_attention.initial_slots", "slot_attention.slots")))
