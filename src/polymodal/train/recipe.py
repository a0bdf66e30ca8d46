"""Recipes as data: a recipe is a list of stages, and a stage says what trains, on what, how and for how long.

Child names are the same in every system (`encoders.image`, `connectors.image`, `backbone`, ...), so
`train=("connectors",)` works everywhere and no table of parameter names is needed (style.md, principle 13).
The numbers are the published ones; what was not published is None and must be given before a stage runs:
`replace(stage, optimizer=replace(stage.optimizer, lr=1e-4))`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

from polymodal.errors import ConfigError
from polymodal.fields import check_fields
from polymodal.train.objectives import Objective
from polymodal.train.optimizer import AdamW, OptimizerConfig
from polymodal.train.schedule import Schedule

KINDS = (
    "text",  # every token is learned
    "conversations",  # text or media in, answers are learned
    "preferences",  # the same with a better and a worse answer
    "image-text pairs",
    "video-text pairs",
    "audio-text pairs",
    "image-audio pairs",
    "image-depth pairs",
    "image-thermal pairs",
    "image-motion pairs",
    "interleaved documents",  # pictures where they stand in the text
    "images",
    "labelled images",
    "labelled sequences",  # of features: several per sample, one label
    "robot trajectories",  # an instruction and the pictures of each step; the actions are learned
)
"""Kinds of data that the catalogue names; another kind needs a loader of its own."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set: its name as people look it up, and what kind of samples it holds (see KINDS).

    samples, tokens: its size as used.  share: of the samples (or tokens) of the stage that come from it.
    masked_words, masked_patches: shares of each sample that the collator hides (train/alignment.py draws masks).
    """

    name: str
    kind: str
    samples: int | None = None
    tokens: int | None = None
    share: float | None = None
    masked_words: float | None = None
    masked_patches: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is run.  batch: samples a step, over all devices; steps, or epochs over all samples.

    max_length: tokens a sample at most.  precision: "float32", "bfloat16" or "float16" (weights stay float32).
    """

    batch: int | None = None
    steps: int | None = None
    epochs: float | None = None
    max_length: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank paths (arXiv 2106.09685); None where a number was not published.  dora: with a learned length of every
    output's row (2402.09353)."""

    rank: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    dora: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class PartRate:
    """Everything below `prefix` learns at `factor` times the rate."""

    prefix: str
    factor: float

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class LayerDecay:
    """Of the n `blocks` below `prefix`, block i learns at decay ** (n - i) times the rate, what lies before them
    (`first`) at decay ** (n + 1), what lies behind at the rate itself (BEiT, arXiv 2106.08254)."""

    prefix: str
    decay: float
    blocks: str = "blocks"
    first: tuple[str, ...] = ("patch_embed", "class_token", "mask_token", "positions", "pre_norm")

    def __post_init__(self) -> None:
        check_fields(self)


Rate = PartRate | LayerDecay


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training phase.

    name: unique in its recipe.  data: what it is trained on; empty where nothing was published.  objective: what is
    learned, built for a model by `objective.build`.
    train: dotted prefixes of the parameters that learn, everything else is frozen.  `*` stands for any part of a name:
    "backbone.*.cross", "backbone.*.branches.1".  frozen: prefixes below them that do not.  lora: prefix -> low-rank
    paths that learn beside the frozen linears below it; linears that have some already keep them.  rates: parts that
    learn at another rate, the first rule that names a parameter counts.  ema: decay of a running mean of what learns,
    which is kept beside it; None: there is none.
    schedule: None where it was not published.  start: "scratch"; "parts", each from its own published weights; the
    name of an earlier stage; or "id:variant" of another system.  note: what the paper says and the record cannot.
    """

    name: str
    data: tuple[DataSource, ...]
    objective: Objective
    train: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    lora: Mapping[str, LoRAConfig] = field(default_factory=dict)
    rates: tuple[Rate, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=AdamW)
    schedule: Schedule | None = None
    budget: Budget = Budget()
    ema: float | None = None
    start: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"stage {self.name}: ema is a decay between 0 and 1, as 0.999; found {self.ema}")

    @property
    def steps(self) -> int:
        """Optimiser steps: given, or from epochs, samples and batch.  Raises ConfigError where neither is known."""
        budget = self.budget
        if budget.steps is not None:
            return budget.steps
        samples = [source.samples for source in self.data]
        if budget.epochs is None or budget.batch is None or not samples or None in samples:
            raise ConfigError(f"stage {self.name}: its number of steps is not known; give budget=Budget(steps=...)")
        return math.ceil(budget.epochs * sum(each or 0 for each in samples) / budget.batch)

    def rate(self, step: int) -> float:
        """Learning rate at `step`, 0-based.  Raises ConfigError where rate, schedule or steps were not published."""
        if self.optimizer.lr is None or self.schedule is None:
            missing = "learning rate: give optimizer=" if self.optimizer.lr is None else "schedule: give schedule="
            raise ConfigError(f"stage {self.name} has no published {missing}...")
        return self.optimizer.lr * self.schedule.factor(step, self.steps)


def as_dict(record: Any) -> Any:
    """A stage, or any record in it, as what JSON can hold; a record names its kind under "type"."""
    if is_dataclass(record) and not isinstance(record, type):
        return {"type": type(record).__name__} | {
            each.name: as_dict(getattr(record, each.name)) for each in fields(record)
        }
    if isinstance(record, Mapping):
        return {str(name): as_dict(value) for name, value in record.items()}
    if isinstance(record, list | tuple | set | frozenset):
        return [as_dict(each) for each in record]
    return record


def below(name: str, prefix: str) -> bool:
    """Whether a parameter's dotted name lies under a prefix of `Stage.train`."""
    if "*" in prefix:
        return fnmatchcase(name, prefix) or fnmatchcase(name, prefix + ".*")
    return name == prefix or name.startswith(prefix + ".")
