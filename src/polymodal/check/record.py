"""What a system's evidence file declares: its oracle, cases, published sizes, training checks and headline.

    EVIDENCE = Evidence(oracle=..., cases=(...), published=(...), training_checks={...}, headline=...)

A case writes a folder in the published format with every parameter random and says what the oracle gave for some
inputs; the engine loads that folder as anybody would, with `pm.load`, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymodal.fields import check_fields

Shapes = Mapping[str, Sequence[int]]
Tensors = dict[str, Any]
TOLERANCE = 1e-4  # maximum absolute error of float32 logits and features


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the oracle gave.  inputs: tensors by the published processor's names.

    logits: compared at real tokens.  features: by modality.  predictions: by name, of regression heads.
    prompt: inputs of generation, where they are others; generated: greedy ids [B, T + 16] as transformers returns them.
    alone: (row, inputs of that row alone), whose logits must be those of the row in the batch.  options: further ones
    for `generate`.  call: arguments of `pm.load`.
    """

    inputs: Tensors
    logits: Tensor | None = None
    features: Mapping[str, Any] | None = None
    predictions: Mapping[str, Tensor] | None = None
    prompt: Tensors | None = None
    generated: Tensor | None = None
    alone: Sequence[tuple[int, Tensors]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Case:
    """make(folder) writes a published checkpoint and gives what the oracle says.  file: the weights file in the
    folder to load, where the checkpoint is a single file.  needs: a package without which the case cannot run."""

    name: str
    make: Callable[[Path], Expected]
    file: str = ""
    needs: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class RecordedCase:
    """Of an agent: pairs() -> (what our parser gives, what the official one gave) for each recorded output of a
    planner."""

    name: str
    pairs: Callable[[], Iterable[tuple[Any, Any]]]

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Size:
    """One published size by the oracle: shapes() -> every name on disk with its shape, nothing read or allocated.

    source: where the list comes from.  parameters: as published or counted by the oracle.
    """

    variant: str
    shapes: Callable[[], Shapes]
    source: str
    parameters: Callable[[], int]
    needs: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TrainingCheck:
    """Training at tiny size on real data: the model, and batches(step) -> a batch of the stage's objective."""

    model: nn.Module
    batches: Callable[[int], Any]
    steps: int = 30
    lr: float = 3e-3

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class HeadlineResult:
    """Whether the headline was seen to work, and what was seen, in a sentence."""

    ok: bool | None
    evidence: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All of it for one system.  training_checks: stage name -> maker of its check, which raises `MissingData` where
    the data are not here.

    headline: shown in the first format of the record.  layouts: name of each further format -> the headline shown in
    that layout, or why there can be none.

    recorded: in place of cases, of an agent, which has no outputs of its own.  exceptions: what is known not to
    hold, in
    words, printed beside the result.
    """

    oracle: str
    cases: tuple[Case, ...]
    published: tuple[Size, ...] = ()
    training_checks: Mapping[str, Callable[[], TrainingCheck]] = field(default_factory=dict)
    headline: Callable[[], HeadlineResult] | None = None
    layouts: Mapping[str, Callable[[], HeadlineResult] | str] = field(default_factory=dict)
    recorded: tuple[RecordedCase, ...] = ()
    exceptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


class MissingData(Exception):
    """The real data of a training check is not in the cache; the message says how to fetch it."""
