"""What a model can do, as protocols: code checks `isinstance(model, HasFeatures)`, never `hasattr` or a class name.

model(**batch) -> Output         every model; `output_fields` names the fields that it can fill
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from polymodal.models.output import Output


@runtime_checkable
class ReturnsOutput(Protocol):
    """An nn.Module called as `model(**batch) -> Output`.

    output_fields: the fields of Output that it can fill ("logits", "hidden", "features", "embeddings", "predictions").
    """

    @property
    def output_fields(self) -> frozenset[str]: ...

    def forward(self, **batch: Any) -> Output: ...


@runtime_checkable
class HasFeatures(Protocol):
    """features(**batch) -> by modality, the inputs of the backbone or the vectors in the joint space."""

    def features(self, **batch: Any) -> Mapping[str, Any]: ...


@runtime_checkable
class RendersMedia(Protocol):
    """render(pipelines, **batch) -> by modality, the output of the caller's diffusion pipelines for signal tokens."""

    def render(
        self, pipelines: Mapping[str, Any], changes: Mapping[str, Any] | None = None, **batch: Any
    ) -> Mapping[str, list[Any]]: ...


@runtime_checkable
class RendersAnswers(Protocol):
    """render_answer(answer, pipelines, changes) -> the words of an answer, and by modality what they ask for, made by
    the caller's pipelines from a prompt in words."""

    def render_answer(
        self, answer: str, pipelines: Mapping[str, Any], changes: Mapping[str, Any] | None = None
    ) -> tuple[str, Mapping[str, list[Any]]]: ...


@runtime_checkable
class RulesAnswers(Protocol):
    """answer_rule: ids that an answer has so far -> the only ids that may come next, int64 [n]; None: any may."""

    @property
    def answer_rule(self) -> Callable[[Sequence[int]], Tensor | None] | None: ...


@runtime_checkable
class NamesInputs(Protocol):
    """A `prepare_inputs` or `context` that uses tensors of the batch that no encoder and no connector uses."""

    @property
    def input_names(self) -> frozenset[str]: ...


@runtime_checkable
class MakesInputIds(Protocol):
    """A `prepare_inputs` that adds `input_ids` to a batch without them (captioning an image without a prompt)."""

    makes_input_ids: bool


@runtime_checkable
class CountsNextPositions(Protocol):
    """A `prepare_inputs` with a rule of its own for the positions of generated tokens."""

    def next_positions(self, tokens: Tensor, held: int) -> Tensor:
        """Positions [B, 1] of generated `tokens` [B, 1] after `held` cached ones."""


@runtime_checkable
class HasPositionTable(Protocol):
    """The config of a backbone that may have a table of learned positions, which ends its context."""

    @property
    def positions(self) -> Any:
        """Their config, None where positions are computed."""


@runtime_checkable
class RewritesInputs(Protocol):
    """A `prepare_inputs` whose `rewrite(batch)` changes ids that are there, after everything absent was added."""

    def rewrite(self, batch: Mapping[str, Any]) -> dict[str, Any]: ...


def fills(model: Any, field: str) -> bool:
    """Whether `model(**batch)` can fill this field of Output."""
    return isinstance(model, ReturnsOutput) and field in model.output_fields


def rule_of(model: Any) -> Callable[[Sequence[int]], Tensor | None] | None:
    """The model's own rule for its answers, None where it has none."""
    return model.answer_rule if isinstance(model, RulesAnswers) else None
