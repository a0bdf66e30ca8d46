"""The image codec of VQ-GAN (arXiv 2012.09841) in plain torch, pixels to codes, as `plain.py` has the other parts.

Its config says `attn_type` "none": no attention.  All levels have one residual block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.check.plain import Shapes, Weights, weight_and_bias


def convolution(weights: Weights, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding)


def group_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6))


def residual(weights: Weights, name: str, x: Tensor) -> Tensor:
    inner = x
    for half in "12":
        inner = convolution(weights, f"{name}.conv{half}", group_norm(weights, f"{name}.norm{half}", inner))
    shortcut = f"{name}.nin_shortcut"
    return inner + (convolution(weights, shortcut, x, padding=0) if f"{shortcut}.weight" in weights else x)


def codes(weights: Weights, config: Mapping[str, Any], pixels: Tensor) -> Tensor:
    """[N, 3, H, W] -> int64 [N, h, w], the nearest row of the codebook."""
    x, last = convolution(weights, "encoder.conv_in", pixels), len(config["channel_multiplier"]) - 1
    for level in range(last + 1):
        x = residual(weights, f"encoder.down.{level}.block.0", x)
        if level < last:
            name = f"encoder.down.{level}.downsample.conv"
            x = convolution(weights, name, F.pad(x, (0, 1, 0, 1)), padding=0, stride=2)
    x = residual(weights, "encoder.mid.block_2", residual(weights, "encoder.mid.block_1", x))
    x = convolution(weights, "encoder.conv_out", group_norm(weights, "encoder.norm_out", x))
    x = convolution(weights, "quant_conv", x, padding=0).movedim(1, -1)
    return torch.cdist(x, weights["quantize.embedding.weight"]).argmin(-1)


def codec_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of the way from pixels to codes."""
    base, latent, width = config["base_channels"], config["latent_channels"], config["embed_dim"]
    channels = [base * factor for factor in config["channel_multiplier"]]
    made = weight_and_bias("encoder.conv_in", (base, 3, 3, 3))
    for level, (before, after) in enumerate(zip([base, *channels], channels, strict=False)):
        made |= _residual(f"encoder.down.{level}.block.0", before, after)
        if level < len(channels) - 1:
            made |= weight_and_bias(f"encoder.down.{level}.downsample.conv", (after, after, 3, 3))
    top = channels[-1]
    made |= _residual("encoder.mid.block_1", top, top) | _residual("encoder.mid.block_2", top, top)
    made |= weight_and_bias("encoder.norm_out", (top,)) | weight_and_bias("encoder.conv_out", (latent, top, 3, 3))
    made |= weight_and_bias("quant_conv", (width, latent, 1, 1))
    made |= weight_and_bias("post_quant_conv", (latent, width, 1, 1))
    return made | {"quantize.embedding.weight": (config["num_embeddings"], width)}


def _residual(name: str, before: int, after: int) -> Shapes:
    made = weight_and_bias(f"{name}.norm1", (before,)) | weight_and_bias(f"{name}.conv1", (after, before, 3, 3))
    made |= weight_and_bias(f"{name}.norm2", (after,)) | weight_and_bias(f"{name}.conv2", (after, after, 3, 3))
    return made | (weight_and_bias(f"{name}.nin_shortcut", (after, before, 1, 1)) if before != after else {})
