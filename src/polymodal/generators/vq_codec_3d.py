"""Emu3's image and video codec with one codebook and temporal compression (arXiv 2409.18869).

    pixels [N,3,H,W] repeated over time, or [N,F,3,H,W] -> encoder per frame -> temporal downsampling by 2, log2(time)
        times -> temporal residual blocks -> quant_conv -> nearest code -> ids [N,h,w] or [N,F/4,h,w]    (encode)
    ids -> code vectors q -> post_quant_conv -> z;  z and q through the same temporal blocks and upsampling
        -> decoder(z), whose norms are conditioned on q -> pixels                                        (decode)

Traps: the norms use q AFTER the temporal blocks; temporal convolutions are causal and always pad two frames in front,
whatever their kernel; an image is `time` equal frames and decodes to the first of them; the temporal residual blocks
have batch norms, so running statistics are part of the weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.generators.codebook import Codebook
from polymodal.generators.conv_stack import ConvDecoder, ConvEncoder, ConvStackConfig
from polymodal.weights.keytable import KeyTable, Row, pair, rename
from polymodal.weights.operations import Squeeze


class CausalConv(nn.Conv3d):
    """Temporally causal convolution over `[N, C, T, H, W]`; keeps height and width at stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        pads = [2, 0]  # F.pad order: (before, after) of width, height, time
        for kernel, stride in zip(self.kernel_size[1:], self.stride[1:], strict=True):
            missing = kernel - stride
            pads = [missing - missing // 2, missing // 2, *pads]
        return super().forward(F.pad(x, pads))


class TimeBlock(nn.Module):
    """Residual: twice batch norm, swish, causal convolution.  `[N, C, T, H, W] -> [N, C, T, H, W]`"""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = CausalConv(channels, channels, 3)
        self.norm2 = nn.BatchNorm3d(channels)
        self.conv2 = CausalConv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class TimeDown(nn.Module):
    """Temporal downsampling by 2, `halvings` times, then residual blocks."""

    def __init__(self, channels: int, halvings: int, blocks: int):
        super().__init__()
        self.halvings = nn.ModuleList(CausalConv(channels, channels, (4, 3, 3), (2, 1, 1)) for _ in range(halvings))
        self.blocks = nn.ModuleList(TimeBlock(channels) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.halvings:
            x = F.silu(conv(x))
        for block in self.blocks:
            x = block(x)
        return x


class TimeUp(nn.Module):
    """Residual blocks, then temporal upsampling by 2, `doublings` times (repeat each frame, causal convolution)."""

    def __init__(self, channels: int, doublings: int, blocks: int):
        super().__init__()
        self.blocks = nn.ModuleList(TimeBlock(channels) for _ in range(blocks))
        self.doublings = nn.ModuleList(CausalConv(channels, channels, 3) for _ in range(doublings))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        for conv in self.doublings:
            x = F.silu(conv(x.repeat_interleave(2, dim=2)))
        return x


@dataclass(frozen=True, kw_only=True)
class VideoCodecConfig:
    """stack: the per-frame encoder and decoder; width: of a code vector; time: frames per code, a power of 2."""

    stack: ConvStackConfig
    codes: int = 32768
    width: int = 4
    time: int = 4

    def __post_init__(self) -> None:
        if self.time < 1:
            raise ConfigError(f"codec: frames per code must be at least 1, found {self.time}")

    @property
    def halvings(self) -> int:
        """Number of temporal downsamplings by 2."""
        return int(math.log2(self.time))

    def build(self) -> "VideoCodec":
        return VideoCodec(self)


class VideoCodec(nn.Module):
    """See the module docstring."""

    def __init__(self, config: VideoCodecConfig):
        super().__init__()
        self.config = config
        stack, latent = config.stack, config.stack.latent
        self.encoder: ConvEncoder = stack.build_encoder()
        self.time_down = TimeDown(latent, config.halvings, stack.blocks)
        self.quant_conv = CausalConv(latent, config.width, (3, 1, 1))
        self.codebook = Codebook(config.codes, config.width)
        self.post_quant_conv = CausalConv(config.width, latent, (3, 1, 1))
        self.time_up = TimeUp(latent, config.halvings, stack.blocks)
        self.decoder: ConvDecoder = stack.build_decoder()

    def forward(self, pixel_values: Tensor, image_sizes: Tensor | None = None) -> Tensor | list[Tensor]:
        """Ids as from `encode`; with `image_sizes [N, 2]` (height, width in pixels), a list without padding ids."""
        ids = self.encode(pixel_values)
        if image_sizes is None:
            return ids
        factor = self.config.stack.factor
        sizes = [(int(height) // factor, int(width) // factor) for height, width in image_sizes]
        return [grid[..., :rows, :columns] for grid, (rows, columns) in zip(ids, sizes, strict=True)]

    def encode(self, pixel_values: Tensor) -> Tensor:
        """`[N, 3, H, W] -> ids [N, h, w]`; `[N, F, 3, H, W] -> ids [N, f, h, w]`, int64."""
        still = pixel_values.dim() == 4
        if still:
            pixel_values = pixel_values[:, None].expand(-1, self.config.time, -1, -1, -1)
        count, frames = pixel_values.shape[:2]
        # All frames of a still image are equal: encode one and repeat it.
        latents = self.encoder(pixel_values[:, 0] if still else pixel_values.flatten(0, 1))
        latents = latents[:, None].expand(-1, frames, -1, -1, -1) if still else latents.unflatten(0, (count, frames))
        latents = self.quant_conv(self.time_down(latents.transpose(1, 2)))
        ids = self.codebook.nearest(latents.movedim(1, -1))
        return ids[:, 0] if still and ids.shape[1] == 1 else ids

    def decode(self, ids: Tensor) -> Tensor:
        """`ids [N, h, w] -> [N, 3, H, W]`; `ids [N, f, h, w] -> [N, F, 3, H, W]`, values in about [-1, 1]."""
        still = ids.dim() == 3
        vectors = self.codebook(ids[:, None] if still else ids).movedim(-1, 1)
        both = self.time_up(torch.cat((self.post_quant_conv(vectors), vectors)))
        latents, condition = both.transpose(1, 2).chunk(2)
        if still:
            return self.decoder(latents[:, 0], condition[:, 0])
        pixels = self.decoder(latents.flatten(0, 1), condition.flatten(0, 1))
        return pixels.unflatten(0, latents.shape[:2])


def parse_config(config: Mapping[str, Any]) -> VideoCodecConfig:
    """The codec of a transformers or official Emu3 codec config dict.  Raises ConfigError for unsupported options."""
    if config.get("double_latent") or config.get("double_z"):
        raise ConfigError("vq_config.double_latent is not supported: no published codec quantises a double latent")
    base = config.get("base_channels", config.get("ch", 256))
    multipliers = config.get("channel_multiplier", config.get("ch_mult", (1, 2, 2, 4)))
    width = config.get("embed_dim", 4)
    if config.get("hidden_size", base * multipliers[-1]) != base * multipliers[-1]:
        raise ConfigError(
            f"vq_config.hidden_size must be the channels of the last level ({base * multipliers[-1]}), "
            f"found {config['hidden_size']}"
        )
    attention = config.get("attn_resolutions", (3,))
    return VideoCodecConfig(
        stack=ConvStackConfig(
            channels=tuple(base * m for m in multipliers),
            base=base,
            blocks=config.get("num_res_blocks", 2),
            attention=tuple(attention or ()),
            heads=config.get("num_attention_heads", 1),
            pixels=config.get("in_channels", 3),
            latent=config.get("latent_channels", config.get("z_channels", 4)),
            condition=width,
            pixels_out=config.get("out_channels", 3),
        ),
        codes=config.get("codebook_size", 32768),
        width=width,
        time=config.get("temporal_downsample_factor", 4),
    )


def _norm(source: str, target: str, spatial: bool) -> tuple[Row, ...]:
    if not spatial:
        return pair(source, target)
    names = {"norm_layer": "norm", "conv_y": "scale", "conv_b": "shift"}
    return tuple(row for a, b in names.items() for row in pair(f"{source}.{a}", f"{target}.{b}"))


def _block(source: str, target: str, spatial: bool) -> tuple[Row, ...]:
    return (
        *_norm(f"{source}.norm1", f"{target}.norm1", spatial),
        *pair(f"{source}.conv1", f"{target}.conv1"),
        *_norm(f"{source}.norm2", f"{target}.norm2", spatial),
        *pair(f"{source}.conv2", f"{target}.conv2"),
        *pair(f"{source}.nin_shortcut", f"{target}.shortcut"),
    )


def _attention(source: str, norm: str, target: str, spatial: bool) -> tuple[Row, ...]:
    linears = [row for a in "qkv" for row in pair(f"{source}.{a}_proj", f"{target}.attn.{a}_proj")]
    return (*_norm(norm, f"{target}.norm", spatial), *linears, *pair(f"{source}.out_proj", f"{target}.attn.o_proj"))


def _official_attention(source: str, target: str, spatial: bool) -> tuple[Row, ...]:
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj_out": "o_proj"}
    linears = [
        row for a, b in names.items() for row in pair(f"{source}.{a}", f"{target}.attn.{b}", Squeeze(3), Squeeze(2))
    ]
    return (*_norm(f"{source}.norm", f"{target}.norm", spatial), *linears)


def _time(side: str, ours: str, convs: str) -> tuple[Row, ...]:
    block, target = f"{side}.time_res_stack.{{}}", f"{ours}.blocks.{{}}"
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = [
        rename(f"{block}.{norm}.{leaf}", f"{target}.{norm}.{leaf}") for norm in ("norm1", "norm2") for leaf in leaves
    ]
    inner = [row for conv in ("conv1", "conv2") for row in pair(f"{block}.{conv}.conv", f"{target}.{conv}")]
    return (*norms, *inner, *pair(f"{side}.time_conv.{{}}.conv.conv", f"{ours}.{convs}.{{}}"))


def _ends(side: str, spatial: bool) -> tuple[Row, ...]:
    convs = [row for leaf in ("conv_in", "conv_out") for row in pair(f"{side}.{leaf}", f"{side}.{leaf}")]
    return (*convs, *_norm(f"{side}.norm_out", f"{side}.norm_out", spatial))


def _half(side: str, way: str, resize: str, spatial: bool) -> tuple[Row, ...]:
    level, middle = f"{side}.{way}_block.{way}.{{}}", f"{side}.middle_block"
    ours, centre = f"{side}.levels.{{}}", f"{side}.middle"
    return (
        *_ends(side, spatial),
        *_block(f"{level}.block.{{}}", f"{ours}.blocks.{{}}", spatial),
        *_attention(f"{level}.attn.{{}}", f"{level}.attn_norms.{{}}", f"{ours}.attentions.{{}}", spatial),
        *pair(f"{level}.{resize}.conv", f"{ours}.resize"),
        *_block(f"{middle}.block_1", f"{centre}.first", spatial),
        *_attention(f"{middle}.attn_1", f"{middle}.attn_norm", f"{centre}.attention", spatial),
        *_block(f"{middle}.block_2", f"{centre}.second", spatial),
    )


def _official_half(side: str, way: str, resize: str, spatial: bool) -> tuple[Row, ...]:
    level, ours, centre = f"{side}.{way}.{{}}", f"{side}.levels.{{}}", f"{side}.middle"
    return (
        *_ends(side, spatial),
        *_block(f"{level}.block.{{}}", f"{ours}.blocks.{{}}", spatial),
        *_official_attention(f"{level}.attn.{{}}", f"{ours}.attentions.{{}}", spatial),
        *pair(f"{level}.{resize}.conv", f"{ours}.resize"),
        *_block(f"{side}.mid.block_1", f"{centre}.first", spatial),
        *_official_attention(f"{side}.mid.attn_1", f"{centre}.attention", spatial),
        *_block(f"{side}.mid.block_2", f"{centre}.second", spatial),
    )


def keys(official: bool = False) -> KeyTable:
    """Names of transformers' Emu3VQVAE (official: Emu3VisionVQModel) -> those of a VideoCodec; strict both ways."""
    half = _official_half if official else _half
    return KeyTable(
        (
            *half("encoder", "down", "downsample", False),
            *_time("encoder", "time_down", "halvings"),
            *half("decoder", "up", "upsample", True),
            *_time("decoder", "time_up", "doublings"),
            rename("quantize.embedding.weight", "codebook.embedding.weight"),
            *pair("quant_conv.conv", "quant_conv"),
            *pair("post_quant_conv.conv", "post_quant_conv"),
        )
    )
