"""A support vector machine with Gaussian kernels over features laid side by side (early fusion).

    text [B, T, F] -> mean over real steps [B, F] ┐
    vision, audio, author, context alike          ┴> [B, D] -> (x - mean) / scale
    -> decision [B] = sum over vectors v of coefficient(v) * exp(-gamma |x - v|^2) + bias  ->  logits (-d, d)

Cortes and Vapnik 1995.  `solve` finds the coefficients as LIBSVM does (Fan, Chen and Lin 2005: pairs of the largest
second-order gain), on the host in float64; `train/affect.py` calls it.
Trap: coefficients may be 1000 times what the decision is, so decisions are summed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.feature_inputs import checked, mean_over_time
from polymodal.models.output import Output

PARTS = ("text", "vision", "audio", "author", "context")


@dataclass(frozen=True, kw_only=True)
class KernelMachineConfig:
    """features: width of each part, side by side in this order.  vectors: room for so many."""

    features: Mapping[str, int]
    vectors: int

    def __post_init__(self) -> None:
        if not self.features or not set(self.features) <= set(PARTS):
            raise ConfigError(f"kernel machine: features are some of {', '.join(PARTS)}; found {list(self.features)}")
        if self.vectors < 1:
            raise ConfigError(f"kernel machine: vectors must be 1 at least, found {self.vectors}")

    @property
    def width(self) -> int:
        return sum(self.features.values())

    def build(self) -> KernelMachine:
        return KernelMachine(self)


class KernelMachine(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "features", "predictions"})

    def __init__(self, config: KernelMachineConfig) -> None:
        super().__init__()
        self.config = config
        self.mean = nn.Parameter(torch.zeros(config.width))
        self.scale = nn.Parameter(torch.ones(config.width))
        self.vectors = nn.Parameter(torch.zeros(config.vectors, config.width))
        self.coefficients = nn.Parameter(torch.zeros(1, config.vectors))
        self.bias = nn.Parameter(torch.zeros(1))
        self.gamma = nn.Parameter(torch.ones(1))

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Each part's mean over its real steps, `[B, F]`."""
        given = checked("KernelMachine", batch, self.config.features)
        return {name: mean_over_time(given[name], batch.get(f"{name}_lengths")) for name in self.config.features}

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """predictions["decision"] `[B]`, above 0 for class 1; labels: classes 0 and 1 `[B]`, for the hinge loss."""
        parts = self.features(**batch)
        x = (self.joined(parts) - self.mean) / self.scale
        distance = torch.cdist(x.double(), self.vectors.double(), compute_mode="donot_use_mm_for_euclid_dist")
        kernel = torch.exp(-self.gamma.double() * distance.square())
        decision = (kernel @ self.coefficients.double()[0] + self.bias.double()).to(x.dtype)
        logits = torch.stack((-decision, decision), 1)
        output = Output(logits=logits, features=parts, predictions={"decision": decision})
        if labels is None:
            return output
        loss = (1 - (2 * labels.reshape(-1) - 1) * decision).clamp(min=0).mean()
        return output._replace(loss=loss, losses={"hinge": loss})

    def joined(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The parts side by side, `[B, D]`."""
        return torch.cat([parts[name] for name in self.config.features], 1)

    @torch.no_grad()
    def hold(self, x: Tensor, scaled: bool) -> None:
        """Take rows `[N, D]` as support vectors without coefficients; scaled: each number gets mean 0 and variance 1.

        gamma becomes 1 / (D variance of all numbers).  Raises ConfigError for more rows than there is room for.
        """
        count, room = len(x), self.config.vectors
        if count > room:
            raise ConfigError(f"kernel machine: {count} training samples, room for {room} vectors; build a larger one")
        rows = x.double()
        if scaled:
            deviation = rows.std(0, correction=0)
            self.mean.copy_(rows.mean(0))
            self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        rows = (rows - self.mean) / self.scale
        self.gamma.fill_(float(1 / (rows.shape[1] * rows.var(correction=0).clamp(min=1e-12))))
        self.vectors.zero_()
        self.vectors[:count].copy_(rows)
        self.coefficients.zero_()


class Solution(NamedTuple):
    """alphas [N] in 0..C; bias; gap: primal minus dual value, 0 at the optimum."""

    alphas: np.ndarray
    bias: float
    gap: float


def solve(
    kernel: np.ndarray, signs: np.ndarray, cost: float, alphas: np.ndarray, *, updates: int, tolerance: float = 1e-3
) -> Solution:
    """Improve `alphas` by at most `updates` pairs; kernel [N, N], signs -1 and 1 [N].

    Ends early where the largest violation of the conditions of optimality is below the tolerance.
    """
    alphas, diagonal = alphas.copy(), np.diag(kernel)
    slopes = signs * (kernel @ (alphas * signs)) - 1  # of the dual
    for _ in range(updates):
        scores = -signs * slopes
        rising = np.where(signs > 0, alphas < cost, alphas > 0)
        falling = np.where(signs > 0, alphas > 0, alphas < cost)
        i = int(np.argmax(np.where(rising, scores, -np.inf)))
        violation = scores[i] - scores
        curvature = np.maximum(diagonal[i] + diagonal - 2 * kernel[i], 1e-12)
        gains = np.where(falling & (violation > 0), violation**2 / curvature, -np.inf)
        j = int(np.argmax(gains))
        if np.max(np.where(falling, violation, -np.inf)) < tolerance or gains[j] == -np.inf:
            break
        step = violation[j] / curvature[j]
        step = min(
            step, cost - alphas[i] if signs[i] > 0 else alphas[i], alphas[j] if signs[j] > 0 else cost - alphas[j]
        )
        alphas[i] += signs[i] * step
        alphas[j] -= signs[j] * step
        slopes += signs * (kernel[:, i] - kernel[:, j]) * step
    return _finished(kernel, signs, cost, np.clip(alphas, 0, cost), slopes)


def _finished(kernel: np.ndarray, signs: np.ndarray, cost: float, alphas: np.ndarray, slopes: np.ndarray) -> Solution:
    """The bias: the mean over vectors between the bounds, or the middle of what the others allow."""
    scores, free = -signs * slopes, (alphas > 0) & (alphas < cost)
    if free.any():
        bias = float(scores[free].mean())
    else:
        rising = np.where(signs > 0, alphas < cost, alphas > 0)
        falling = np.where(signs > 0, alphas > 0, alphas < cost)
        bounds = scores[rising].max(initial=-np.inf), scores[falling].min(initial=np.inf)
        bias = float(np.mean([each for each in bounds if np.isfinite(each)] or [0.0]))
    weights = alphas * signs
    decisions = kernel @ weights
    square = float(weights @ decisions)
    hinge = np.maximum(0, 1 - signs * (decisions + bias)).sum()
    return Solution(alphas, bias, square + cost * float(hinge) - float(alphas.sum()))
