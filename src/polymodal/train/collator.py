"""What samples become in the batch of an objective: one collator for each kind of data and of objective.

    objective.collator(Learner) -> Collator      its item(sample) -> what is kept of one     batch(items) -> MicroBatch
                                                 steps(mixture, options) -> which samples stand in a step

`objective.collator` chooses by what is learned; a system whose tensors have names of their own brings a collator with
the model (`LoadedModel.collator`).  Masks and other random numbers come from the generator that a batch is given, which
is seeded by the step: a step is the same after a stop, and in any worker process.
Traps: an item that is of another kind than the objective learns from raises WrongKind, one that is damaged PromptError
or MediaError; both are skipped in a run, but a run whose data is all of a wrong kind does not start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.sample import Sample
from polymodal.errors import ConfigError, MediaError, PromptError

if TYPE_CHECKING:
    from polymodal.train.batches import BatchOptions, Steps

TRIES = 8  # samples of a data set that are looked at before a run


class WrongKind(PromptError):
    """A sample of another kind than the objective learns from."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward pass takes.  targets: how many tokens of it are learned.  tokens: without padding.

    counts: of losses that are means over something else, by name (signals): how much of that is here.
    """

    batch: Mapping[str, Any]
    targets: int
    tokens: int
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What a collator is made for.

    processor: the model's, None where it has none.  labels: names of its classes in the order of its logits.
    max_length: of a row in tokens.  packing: several conversations a row.  ranks: how many processes share a step.
    masked_words, masked_patches: shares that are hidden, as the stage says.  codec: picture -> ids of its patches, for
    objectives that learn them, where one was given.
    """

    module: nn.Module
    processor: Any = None
    labels: tuple[str, ...] = ()
    max_length: int | None = None
    packing: bool = False
    ranks: int = 1
    masked_words: float | None = None
    masked_patches: float | None = None
    codec: nn.Module | None = None


class Collator:
    """Samples -> batches.  expects: in words, for messages.  compares: the samples of a step are compared with each
    other, so that it is one batch and is not cut.  has_lengths: an item is a row of tokens, as many as its `len`."""

    expects: ClassVar[str] = "samples"
    compares: ClassVar[bool] = False
    has_lengths: ClassVar[bool] = False

    def item(self, sample: Sample) -> Any:
        """What is kept of one sample.  Raises WrongKind, PromptError or MediaError."""
        raise NotImplementedError

    def drawn(self, sample: Sample, generator: torch.Generator) -> Any:
        """The same with random numbers of its place in the run, for what takes a part of a sample."""
        return self.item(sample)

    def arranged(self, items: list[Any]) -> list[Any]:
        """The items of a step in the order, or the rows, in which they are cut into batches."""
        return items

    def batch(self, items: Sequence[Any], generator: torch.Generator) -> MicroBatch:
        """Items as tensors."""
        raise NotImplementedError

    def blank(self) -> MicroBatch | None:
        """What teaches nothing and is passed through the model while other processes still have rows."""
        return None

    def steps(self, mixture: Mixture, options: BatchOptions) -> Steps:
        """Which samples stand in which step: those of the mixture, one batch after the other."""
        from polymodal.train.batches import StepBatches

        return StepBatches(collator=self, mixture=mixture, options=options)


@runtime_checkable
class Collates(Protocol):
    """An objective that says what its batches are made of."""

    def collator(self, learner: Learner) -> Collator:
        """Raises ConfigError for a model whose processor cannot make them."""
        ...


def counted(batch: Mapping[str, Any], rows: int) -> MicroBatch:
    """A batch in which every row counts the same."""
    ids = batch.get("input_ids")
    mask = batch.get("attention_mask")
    tokens = rows if ids is None else int(ids.numel() if mask is None else mask.sum())
    return MicroBatch(batch=batch, targets=rows, tokens=tokens)


def found_in(sample: Sample) -> str:
    """What a sample is, in words, for messages."""
    if sample.features:
        return f"sequences of {', '.join(sample.features)}"
    if sample.modalities:
        return f"the modalities {', '.join(sample.modalities)}"
    if "map" in sample.arrays:
        return "maps of pictures"
    if "actions" in sample.arrays:
        return "what a robot did"
    if sample.rejected:
        return "questions with a better and a worse answer"
    if sample.messages:
        media = [each.modality for message in sample.messages for each in message.media]
        about = f" about {', '.join(sorted(set(media)))}" if media else " of text alone"
        captions = len(sample.messages) <= 2 and not sample.messages[0].text and len(media) == 1
        return f"captions of {media[0]}" if captions else f"conversations{about}"
    if sample.media:
        return " and ".join(each.modality for each in sample.media) + (
            " with labels" if sample.labels is not None else " alone"
        )
    return "text alone"


def require_kind(mixture: Mixture, collator: Collator, what: str) -> None:
    """Raises ConfigError for a data set of which none of the first samples is of the kind that is learned from.

    what: the stage and its objective, in words.
    """
    for dataset in mixture.datasets:
        found = ""
        for index in range(min(TRIES, len(dataset))):
            try:
                sample = dataset.sample(index)
                collator.item(sample)
            except WrongKind as problem:
                found = found or f"{found_in(sample)} ({problem})"
                continue
            except (PromptError, MediaError):
                pass
            found = ""
            break
        if found:
            raise ConfigError(f"{what}: expected {collator.expects}, found in {dataset.path} {found}")


def require_special(tokenizer: Any, name: str, why: str) -> int:
    """The id of a special token.  Raises ConfigError where the vocabulary has none."""
    try:
        return tokenizer.special(name)
    except Exception as problem:
        raise ConfigError(f"{why} needs the token {name} in the vocabulary: {problem}") from problem
