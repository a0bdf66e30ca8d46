"""The codec of Stable Diffusion (AutoencoderKL, arXiv 2112.10752): pictures to a small grid of latents, and back.

    pixel_values [N, 3, H, W] in -1..1 -> encoder -> quant_conv -> mean, logarithm of the variance -> latents * scale
    latents [N, C, h, w] / scale -> post_quant_conv -> decoder -> pixels [N, 3, H, W] in about -1..1

Traps: `encode` gives latents as diffusion takes them, scaled; published files have two spellings of attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.generators.conv_stack import ConvDecoder, ConvEncoder, ConvStackConfig, official_stack
from polymodal.generators.vq_codec import half_rows
from polymodal.weights.keytable import KeyTable, Row, drop, pair


@dataclass(frozen=True, kw_only=True)
class KLCodecConfig:
    """scale: latents are multiplied by it, so that their deviation is about 1."""

    stack: ConvStackConfig
    scale: float = 0.18215

    def build(self) -> KLCodec:
        return KLCodec(self)


class KLCodec(nn.Module):
    """See the module docstring."""

    def __init__(self, config: KLCodecConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.stack.latent
        self.encoder: ConvEncoder = replace(config.stack, latent=2 * latent).build_encoder()
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)
        self.decoder: ConvDecoder = config.stack.build_decoder()

    def encode(self, pixel_values: Tensor, noise: Tensor | None = None) -> Tensor:
        """`[N, 3, H, W] -> [N, C, h, w]`, the likeliest latents; noise, of that shape: others of their distribution."""
        mean, log_variance = self.quant_conv(self.encoder(pixel_values)).chunk(2, 1)
        if noise is not None:
            mean = mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise
        return mean * self.config.scale

    def decode(self, latents: Tensor) -> Tensor:
        """`[N, C, h, w] -> [N, 3, H, W]`"""
        return self.decoder(self.post_quant_conv(latents / self.config.scale))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Same as `encode`."""
        return self.encode(pixel_values)


def parse_config(config: Mapping[str, Any]) -> KLCodecConfig:
    """The config.json of an AutoencoderKL; raises ConfigError for other blocks than Stable Diffusion's."""
    for name, type_ in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if any(found != type_ for found in config.get(name) or ()):
            raise ConfigError(f"vae: {name}: expected {type_} alone, found {config[name]}")
    if config.get("norm_num_groups", 32) != 32:
        raise ConfigError(f"vae: norm_num_groups: expected 32, found {config['norm_num_groups']}")
    channels = tuple(config.get("block_out_channels") or (64,))
    stack = ConvStackConfig(
        channels=channels, base=channels[0], blocks=config.get("layers_per_block", 1),
        latent=config.get("latent_channels", 4), pixels=config.get("in_channels", 3),
        pixels_out=config.get("out_channels", 3),
    )  # fmt: skip
    return KLCodecConfig(stack=stack, scale=config.get("scaling_factor", 0.18215))


def official_config(config: Mapping[str, Any], scale: float) -> KLCodecConfig:
    """`ddconfig` of the first latent diffusion code; attention stands in the middle alone.  Raises ConfigError."""
    if config.get("attn_resolutions") or not config.get("double_z", True):
        raise ConfigError(f"codec: expected attn_resolutions [] and double_z true, found "
                          f"{config.get('attn_resolutions')} and {config.get('double_z')}")  # fmt: skip
    return KLCodecConfig(stack=official_stack(config), scale=scale)


def official_keys() -> KeyTable:
    """The names of the first latent diffusion code (kl-f8, AudioLDM) -> a KLCodec."""
    halves = (*half_rows("encoder", "down", "downsample"), *half_rows("decoder", "up", "upsample"))
    ends = (*pair("quant_conv", "quant_conv"), *pair("post_quant_conv", "post_quant_conv"))
    return KeyTable((*halves, *ends, drop("loss.**")))


ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0"}
OLD_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "proj_attn"}


def published_keys(config: KLCodecConfig, attention: Mapping[str, str] = ATTENTION) -> KeyTable:
    """The names of diffusers -> a KLCodec; attention: how the file calls its projections."""
    rows: list[Row] = [*pair("quant_conv", "quant_conv"), *pair("post_quant_conv", "post_quant_conv")]
    depth = len(config.stack.channels)
    for side, way, resize in (("encoder", "down", "downsamplers"), ("decoder", "up", "upsamplers")):
        for theirs, ours in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
            rows += pair(f"{side}.{theirs}", f"{side}.{ours}")
        rows += _block(f"{side}.mid_block.resnets.0", f"{side}.middle.first")
        rows += _block(f"{side}.mid_block.resnets.1", f"{side}.middle.second")
        grid, middle = f"{side}.mid_block.attentions.0", f"{side}.middle.attention"
        rows += pair(f"{grid}.group_norm", f"{middle}.norm")
        for ours, theirs in attention.items():
            rows += pair(f"{grid}.{theirs}", f"{middle}.attn.{ours}")
        for level in range(depth):
            place = level if side == "encoder" else depth - 1 - level  # theirs begins with the coarsest on the way up
            source, target = f"{side}.{way}_blocks.{place}", f"{side}.levels.{level}"
            rows += _block(f"{source}.resnets.{{}}", f"{target}.blocks.{{}}")
            rows += pair(f"{source}.{resize}.0.conv", f"{target}.resize")
    return KeyTable(tuple(rows))


def _block(source: str, target: str) -> Iterator[Row]:
    for leaf in ("norm1", "conv1", "norm2", "conv2"):
        yield from pair(f"{source}.{leaf}", f"{target}.{leaf}")
    yield from pair(f"{source}.conv_shortcut", f"{target}.shortcut")
