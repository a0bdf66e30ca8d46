"""Heads of models that read regions and text.

DenseHead      dense -> activation -> norm -> linear (-> ...)      answers, classes of regions
WeightNormHead weight-normed linear -> ReLU -> weight-normed linear ViLBERT's answers (arXiv 1908.02265)
RegionLabels   dense -> activation -> norm, then a linear for each kind of label (LXMERT, 1908.07490)
FeatureRegression  dense -> GELU -> norm -> the feature matrix, transposed -> region features (UNITER, 1909.11740)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.nn.activation import activation
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.nn.weight_norm import WeightNormLinear


@dataclass(frozen=True, kw_only=True)
class DenseHeadConfig:
    """hidden: width of dense, activation and norm in front of the linear; None: one linear."""

    width: int
    outputs: int
    hidden: int | None = None
    activation: str = "gelu"
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))

    def build(self) -> nn.Module:
        return nn.Linear(self.width, self.outputs) if self.hidden is None else DenseHead(self, self.hidden)


class DenseHead(nn.Module):
    """`[..., D] -> [..., outputs]`"""

    def __init__(self, config: DenseHeadConfig, hidden: int):
        super().__init__()
        self.dense = nn.Linear(config.width, hidden)
        self.act = activation(config.activation)
        self.norm = config.norm.build(hidden)
        self.proj = nn.Linear(hidden, config.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(self.act(self.dense(x))))


@dataclass(frozen=True, kw_only=True)
class WeightNormHeadConfig:
    width: int
    hidden: int
    outputs: int

    def build(self) -> "WeightNormHead":
        return WeightNormHead(self)


class WeightNormHead(nn.Module):
    """`[..., D] -> [..., outputs]`"""

    def __init__(self, config: WeightNormHeadConfig):
        super().__init__()
        self.dense = WeightNormLinear(config.width, config.hidden)
        self.proj = WeightNormLinear(config.hidden, config.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.relu(self.dense(x)))


@dataclass(frozen=True, kw_only=True)
class RegionLabelsConfig:
    """outputs: kind of label -> how many numbers."""

    width: int
    outputs: Mapping[str, int]
    activation: str = "gelu"
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))

    def build(self) -> "RegionLabels":
        return RegionLabels(self)


class RegionLabels(nn.Module):
    """`[N, R, D] -> {kind: [N, R, outputs]}`"""

    def __init__(self, config: RegionLabelsConfig):
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.act = activation(config.activation)
        self.norm = config.norm.build(config.width)
        self.proj = nn.ModuleDict({name: nn.Linear(config.width, count) for name, count in config.outputs.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.act(self.dense(x)))
        return {name: proj(x) for name, proj in self.proj.items()}


@dataclass(frozen=True, kw_only=True)
class FeatureRegressionConfig:
    """features: numbers a region, as the model is given them."""

    width: int
    features: int
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))

    def build(self) -> "FeatureRegression":
        return FeatureRegression(self)


class FeatureRegression(nn.Module):
    """`[N, R, D]` and the matrix [D, F] that embeds features -> `[N, R, F]`"""

    def __init__(self, config: FeatureRegressionConfig):
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = config.norm.build(config.width)
        self.bias = nn.Parameter(torch.zeros(config.features))

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(x))), matrix.T, self.bias)
