"""Recipes as data: a recipe is a list of stages, and a stage says what trains, on what, how and for how long.

Child names are the same in every system (`encoders.image`, `connectors.image`, `backbone`, ...), so
`train=("connectors",)` works everywhere and no table of parameter names is needed (style.md, principle 13).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training phase.

    name: unique in its recipe.  data: what it is trained on, in words a reader can look up.
    train: dotted prefixes of the parameters that learn; everything else is frozen.  `*` stands for any part of a name:
    "backbone.*.cross", "backbone.*.branches.1".
    objective: the name of the loss as in the paper.  lr: peak rate (AdamW); batch: samples a step;
    steps: optimiser steps; warmup: steps of linear warm-up, then cosine to `final` * lr.
    """

    name: str
    data: str
    train: tuple[str, ...]
    objective: str
    lr: float
    batch: int
    steps: int
    warmup: int = 0
    final: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at `step` (0-based): linear warm-up, then cosine decay to `final` * lr."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.lr * (self.final + (1 - self.final) * cosine)


def trainable(model: nn.Module, prefixes: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters below `prefixes`; raises ConfigError for a prefix that names nothing."""
    named = list(model.named_parameters())
    for prefix in prefixes:
        if not any(below(name, prefix) for name, _ in named):
            tops = sorted({name.split(".")[0] for name, _ in named})
            raise ConfigError(f"stage trains '{prefix}', which names no parameter; the model has {', '.join(tops)}")
    for name, parameter in named:
        if any(below(name, prefix) for prefix in prefixes):
            yield name, parameter


def freeze_except(model: nn.Module, prefixes: tuple[str, ...]) -> int:
    """Freeze all of `model` but the parameters below `prefixes`; returns how many numbers train."""
    chosen = {id(parameter) for _, parameter in trainable(model, prefixes)}
    total = 0
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
        total += parameter.numel() if id(parameter) in chosen else 0
    return total


def train_mode(model: nn.Module, mode: bool = True) -> None:
    """`model.train(mode)`, but a part of which no parameter learns stays in evaluation mode (dropout, batch norms).

    A part without parameters follows what holds it.
    """
    model.train(mode)
    if not mode:
        return
    for part in model.modules():
        own = list(part.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            part.eval()


def below(name: str, prefix: str) -> bool:
    """Whether a parameter's dotted name lies under a prefix of `Stage.train`."""
    if "*" in prefix:
        return fnmatchcase(name, prefix) or fnmatchcase(name, prefix + ".*")
    return name == prefix or name.startswith(prefix + ".")
