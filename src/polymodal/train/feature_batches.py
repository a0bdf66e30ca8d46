"""Samples of features -> the batch of a method: sequences padded at their end, with lengths; dialogues with speakers.

    feature_batches(model)                        inputs alone, for predictions
    feature_batches(model, labels=("M",), ...)    with what an objective of train/affect.py learns

Traps: MulT reads the last step, so its sequences are padded in front and have no lengths; support vectors learn from
one batch, all of the data in its order, whatever the stage's batch size is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.sample import Sample
from polymodal.errors import ConfigError, PromptError
from polymodal.models.decomposition_relation import DecompositionRelation
from polymodal.models.dialogue_rnn import DialogueRNN
from polymodal.models.joint_dictionary import JointDictionary
from polymodal.models.kernel_machine import KernelMachine
from polymodal.models.self_mm import SelfMM
from polymodal.models.sequence_fusion import SequenceFusion
from polymodal.models.tensor_fusion import TensorFusion
from polymodal.nn.losses import IGNORE
from polymodal.train.batches import BatchOptions, StepBatches, StepData
from polymodal.train.collator import Collator, MicroBatch, WrongKind

Item = dict[str, Tensor]
TOKENS = ("input_ids", "attention_mask", "token_type_ids")


@runtime_checkable
class CountsSamples(Protocol):
    """An objective that must know how many samples the data has."""

    def of_samples(self, count: int) -> Any:
        """The same objective for so many."""
        ...


@dataclass(frozen=True, kw_only=True)
class FeatureBatches(Collator):
    """widths: by modality.  labels: names of those that are learned, a column each; classes: they are whole numbers.
    tokens: BERT's ids stand in place of the text.  index: each sample's place.  front: padded there, no lengths."""

    expects: ClassVar[str] = "sequences of features with a label each"

    widths: Mapping[str, int]
    labels: tuple[str, ...] = ()
    classes: bool = False
    tokens: bool = False
    index: bool = False
    front: bool = False

    def item(self, sample: Sample) -> Item:
        """Tensors of one sample.  Raises WrongKind without features, PromptError for what does not fit the model."""
        found = features_of(sample, self.widths)
        if self.tokens:
            if "text_bert" not in sample.arrays:
                raise PromptError("has no text_bert (ids, mask, segments of BERT's tokens), which the model reads")
            ids = torch.as_tensor(sample.arrays["text_bert"].values)
            found |= dict(zip(TOKENS, ids[:, : max(1, int(ids[1].sum()))], strict=True))
        if self.labels:
            told = sample.labels if isinstance(sample.labels, Mapping) else {"M": sample.labels}
            if missing := [name for name in self.labels if told.get(name) is None]:
                raise WrongKind(f"has no label {missing[0]}; expected {', '.join(self.labels)}")
            found["labels"] = torch.tensor([float(told[name]) for name in self.labels])
        if self.index:
            found["index"] = torch.as_tensor(sample.arrays["index"].values)[0]
        return found

    def batch(self, items: Sequence[Item], generator: torch.Generator) -> MicroBatch:
        """By modality [B, T, F] and <modality>_lengths [B]; labels [B], or [B, n] of several."""
        side = "left" if self.front else "right"
        made: dict[str, Any] = {}
        for name in (*self.widths, *(TOKENS if self.tokens else ())):
            rows = [each[name] for each in items]
            made[name] = pad_sequence(rows, batch_first=True, padding_side=side)
            if name in self.widths and not self.front:
                made[f"{name}_lengths"] = torch.tensor([len(row) for row in rows])
        if self.labels:
            labels = torch.stack([each["labels"] for each in items])
            labels = labels[:, 0] if len(self.labels) == 1 else labels
            made["labels"] = labels.long() if self.classes else labels
        if self.index:
            made["index"] = torch.stack([each["index"] for each in items])
        return MicroBatch(batch=made, targets=len(items), tokens=len(items))


@dataclass(frozen=True, kw_only=True)
class DialogueBatches(Collator):
    """Dialogues [B, T, F] of each modality, who speaks, and a class for each utterance."""

    expects: ClassVar[str] = "dialogues: features of utterances, their speakers and a class for each"

    widths: Mapping[str, int]
    labelled: bool = False

    def item(self, sample: Sample) -> Item:
        """Tensors of one dialogue."""
        found = features_of(sample, self.widths)
        steps = {name: len(each) for name, each in found.items()}
        if "speakers" not in sample.arrays:
            raise WrongKind("has no speakers")
        found["speakers"] = torch.as_tensor(sample.arrays["speakers"].values).long()
        if self.labelled:
            told = sample.labels.get("utterances") if isinstance(sample.labels, Mapping) else None
            if told is None:
                raise WrongKind("has no label for each utterance")
            found["labels"] = torch.as_tensor(told).long()
        lengths = steps | {name: len(found[name]) for name in ("speakers", "labels") if name in found}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise PromptError(f"has unequal numbers of utterances: {said}")
        return found

    def batch(self, items: Sequence[Item], generator: torch.Generator) -> MicroBatch:
        """Padded at the end, with attention_mask; labels -100 there."""
        lengths = torch.tensor([len(each["speakers"]) for each in items])
        made: dict[str, Any] = {
            name: pad_sequence([each[name] for each in items], batch_first=True) for name in (*self.widths, "speakers")
        }
        made["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        if self.labelled:
            made["labels"] = pad_sequence([each["labels"] for each in items], True, padding_value=IGNORE)
        return MicroBatch(batch=made, targets=int(lengths.sum()), tokens=int(lengths.sum()))


@dataclass(frozen=True, kw_only=True)
class WholeData(FeatureBatches):
    """Every step is all of the data, in its order."""

    compares: ClassVar[bool] = True

    def steps(self, mixture: Mixture, options: BatchOptions) -> EveryStep:
        """See the class.  Raises ConfigError for several processes."""
        if options.ranks > 1:
            raise ConfigError("this stage is solved on one host; run it in one process")
        ordered = Mixture(mixture.datasets, shuffle=False)
        whole = BatchOptions(batch=mixture.epoch_size, micro_batch=options.micro_batch)
        return EveryStep(StepBatches(collator=self, mixture=ordered, options=whole))


class EveryStep:
    """The first step, again and again."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> StepData:
        return self.batches[0]

    def once(self) -> Iterator[StepData]:
        """See Steps."""
        yield self.batches[0]


def features_of(sample: Sample, widths: Mapping[str, int]) -> Item:
    """float32 [T, F] of each modality.  Raises WrongKind or PromptError."""
    if not sample.features and not sample.arrays:
        raise WrongKind("has no features")
    made = {}
    for name, width in widths.items():
        if name not in sample.features:
            raise WrongKind(f"has no {name}; the model reads {', '.join(widths)}")
        values = torch.as_tensor(sample.features[name].values).float()
        values = values[None] if values.dim() == 1 else values
        if values.dim() != 2 or values.shape[1] != width or not len(values):
            raise PromptError(f"its {name} is {list(values.shape)}; expected [steps, {width}], as the model takes it")
        if not bool(values.isfinite().all()):
            raise PromptError(f"its {name} has values that are no numbers")
        made[name] = values
    return made


def feature_batches(
    model: nn.Module, *, labels: tuple[str, ...] = (), classes: bool = False, index: bool = False
) -> Collator:
    """The collator of a method.  Raises ConfigError for a model that reads no features."""
    if isinstance(model, DialogueRNN):
        return DialogueBatches(widths=model.config.features, labelled=bool(labels))
    if isinstance(model, KernelMachine):
        make = WholeData if labels else FeatureBatches
        return make(widths=model.config.features, labels=labels, classes=True)
    if isinstance(model, SelfMM | TensorFusion | SequenceFusion | DecompositionRelation | JointDictionary):
        return FeatureBatches(
            widths=model.config.features,
            labels=labels,
            classes=classes,
            index=index,
            tokens=isinstance(model, SelfMM),
            front=isinstance(model, SequenceFusion),
        )
    raise ConfigError(f"a {type(model).__name__} reads no files of features")
