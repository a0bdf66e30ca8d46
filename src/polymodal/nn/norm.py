"""Norms: RMSNorm (arXiv 1910.07467), Gemma's RMSNorm with weight ``1 + w``, LayerNorm.

All compute in float32, return the dtype of the input, and are called as ``f(x, token_types)`` so that a routed
norm can replace them.  Trap: Gemma stores ``w`` while the scale is ``1 + w``; with the plain RMSNorm such a
checkpoint loads and runs, and gives wrong results.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.nn.computed import computed_buffer


class NormConfig(Protocol):
    """Config of a norm: ``build(width)`` returns a module called as ``f(x, token_types)``."""

    def build(self, width: int) -> nn.Module: ...


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis in float32, scaled in float32, cast back to ``x.dtype``."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return F.rms_norm(x.float(), (x.shape[-1],), weight.float(), eps).to(x.dtype)


class RMSNorm(nn.Module):
    """``x / rms(x) * weight`` over the last axis. ``[..., D] -> [..., D]``"""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class OffsetRMSNorm(nn.Module):
    """Gemma's RMSNorm, ``x / rms(x) * (1 + weight)``; the weight is initialised to zero."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return rms_norm(x, self.weight.float() + 1.0, self.eps)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis, always in float32."""

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        if x.dtype == torch.float32:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        # Without affine parameters both are None, against torch's type annotations.
        weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class FixedBiasLayerNorm(nn.Module):
    """Layer norm with a weight that learns and a bias that does not: zero, unless a file holds another (4M)."""

    bias: Tensor

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        computed_buffer(self, "bias", lambda: torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        wide = F.layer_norm(x.float(), (x.shape[-1],), self.weight.float(), self.bias.float(), self.eps)
        return wide.to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class FixedBiasLayerNormConfig:
    eps: float = 1e-5

    def build(self, width: int) -> FixedBiasLayerNorm:
        return FixedBiasLayerNorm(width, self.eps)


class DeviationNorm(nn.Module):
    """TencentPretrain's layer norm: ``(x - mean) / (deviation + eps)``, of the sample's deviation (n - 1)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        wide = x.float()
        normed = (wide - wide.mean(-1, keepdim=True)) / (wide.std(-1, keepdim=True) + self.eps)
        return (normed * self.weight.float() + self.bias.float()).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class DeviationNormConfig:
    eps: float = 1e-6

    def build(self, width: int) -> DeviationNorm:
        return DeviationNorm(width, self.eps)


class HeadLayerNorm(nn.Module):
    """Layer norm per head, with weights shared by a group of heads: ``[..., H, E] -> [..., H, E]`` (Chameleon)."""

    def __init__(self, size: int, heads: int, groups: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, size))
        self.bias = nn.Parameter(torch.zeros(groups, size))
        self.repeats, self.eps = heads // groups, eps

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        weight, bias = (p.float().repeat_interleave(self.repeats, 0) for p in (self.weight, self.bias))
        return (F.layer_norm(x.float(), (x.shape[-1],), eps=self.eps) * weight + bias).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class HeadLayerNormConfig:
    """``groups`` weight vectors of the size of a head, each shared by ``heads / groups`` consecutive heads."""

    heads: int
    groups: int
    eps: float = 1e-5

    def build(self, width: int) -> HeadLayerNorm:
        return HeadLayerNorm(width, self.heads, self.groups, self.eps)


@dataclass(frozen=True, kw_only=True)
class RMSNormConfig:
    eps: float = 1e-6

    def build(self, width: int) -> RMSNorm:
        return RMSNorm(width, self.eps)


@dataclass(frozen=True, kw_only=True)
class OffsetRMSNormConfig:
    eps: float = 1e-6

    def build(self, width: int) -> OffsetRMSNorm:
        return OffsetRMSNorm(width, self.eps)


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig:
    """``affine`` False: no weight and no bias."""

    eps: float = 1e-5
    bias: bool = True
    affine: bool = True

    def build(self, width: int) -> LayerNorm:
        return LayerNorm(width, eps=self.eps, bias=self.bias, elementwise_affine=self.affine)
