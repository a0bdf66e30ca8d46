"""Feature files as data to train on, and sequences with the lengths and labels that methods on features take.

FeatureData("unaligned_50.pkl", "train")  ->  samples with features, labels by name (M, T, A, V) and their place
SequencesWithLengths   each modality [N, T, F] padded behind, <modality>_lengths [N]; ids of BERT as input_ids
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.sample import Dataset, Sample
from polymodal.data.media import Array
from polymodal.errors import ConfigError, PromptError
from polymodal.files import open_regular
from polymodal.train.batches import BatchOptions, StepBatches, StepData
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted
from polymodal.train.feature_files import SUFFIXES, open_features
from polymodal.train.labelled import LabelledSequences

LABELS = {"score": "M", "text": "T", "audio": "A", "vision": "V"}
"""What a score is called by a model -> MMSA's name of its label."""


class FeatureData(Dataset):
    """The samples of one split of a feature file, all in memory, as the file holds them.  split: None: all."""

    kind: ClassVar[str] = "features"

    def __init__(self, path: Path, split: str | None) -> None:
        super().__init__(path)
        self.samples = open_features(path, split)

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int) -> Sample:
        found = self.samples[index]
        arrays = {"index": Array([index])} | ({} if found.ids is None else {"ids": Array(found.ids)})
        features = {name: Array(values, modality=name) for name, values in found.features.items()}
        return Sample(
            name=f"{self.path.name}:{found.name}", features=features, labels=dict(found.labels), arrays=arrays
        )


def is_feature_file(path: Path) -> bool:
    """Whether a file holds features: by its ending, a table by the names of its columns."""
    suffix = path.suffix.lower()
    if suffix != ".csv" or not path.is_file():
        return suffix in SUFFIXES and suffix != ".csv"
    with open_regular(path, error=ConfigError) as file:
        columns = file.readline(1 << 20).decode("utf-8-sig", "replace").strip().split(",")
    return any(name.strip('"') in ("text_0", "audio_0", "vision_0") for name in columns)


@dataclass(frozen=True, kw_only=True)
class SequencesWithLengths(Collator):
    """columns: names of scores with a label each, [N, n]; empty: the label of the whole sample, [N]."""

    expects: ClassVar[str] = "sequences of features with labels"

    columns: tuple[str, ...] = ()

    def item(self, sample: Sample) -> dict[str, Tensor]:
        """Tensors by name."""
        if not sample.features:
            raise WrongKind("has no features")
        found = {name: torch.as_tensor(np.asarray(each.values)).float() for name, each in sample.features.items()}
        if odd := next((name for name, each in found.items() if each.dim() != 2), None):
            raise PromptError(f"its {odd} is {list(found[odd].shape)}; expected [steps, features]")
        if self.columns:
            found["labels"] = torch.stack([label_of(sample, LABELS.get(name, name)) for name in self.columns])
        else:
            _, found["labels"] = LabelledSequences().item(sample)
        return found

    def batch(self, items: Sequence[Mapping[str, Tensor]], generator: torch.Generator) -> MicroBatch:
        """Padded behind.  Raises WrongKind for samples of different modalities."""
        names = list(items[0])
        if odd := next((list(each) for each in items if set(each) != set(names)), None):
            raise WrongKind(f"a batch of {', '.join(names)} has a sample of {', '.join(odd)}")
        batch: dict[str, Any] = {}
        for name in names:
            values = [each[name] for each in items]
            if values[0].dim() == 2:
                batch[f"{name}_lengths"] = torch.tensor([len(each) for each in values])
            if name in ("labels", "index"):
                floats = any(each.is_floating_point() for each in values)
                batch[name] = torch.stack([each.float() if floats else each for each in values])
            else:
                batch[name] = pad_sequence(values, batch_first=True)
        return counted(batch, len(items))


@dataclass(frozen=True, kw_only=True)
class PlacedTokens(SequencesWithLengths):
    """Ids of BERT in place of vectors of words, and `index`, a sample's place in its file."""

    expects: ClassVar[str] = "samples of a feature file with text_bert, audio, vision and labels"

    def item(self, sample: Sample) -> dict[str, Tensor]:
        """See SequencesWithLengths."""
        found = super().item(sample)
        if missing := [name for name in ("ids", "index") if name not in sample.arrays]:
            raise WrongKind(f"has no {'text_bert' if missing[0] == 'ids' else 'place in a feature file'}")
        found.pop("text", None)
        ids, mask, kinds = torch.as_tensor(np.asarray(sample.arrays["ids"].values)).long()
        place = torch.as_tensor(sample.arrays["index"].values).long()[0]
        return {**found, "input_ids": ids, "attention_mask": mask, "token_type_ids": kinds, "index": place}


@dataclass(frozen=True, kw_only=True)
class WholeSet(SequencesWithLengths):
    """The same samples in the same order at every step."""

    compares: ClassVar[bool] = True

    def steps(self, mixture: Mixture, options: BatchOptions) -> StepBatches:
        """Raises ConfigError for a batch that is not all of them."""
        if options.batch != mixture.epoch_size:
            raise ConfigError(f"this stage learns all samples at once: set budget.batch={mixture.epoch_size}")
        return EachStepAll(collator=self, mixture=Mixture(mixture.datasets, shuffle=False), options=options)


class EachStepAll(StepBatches):
    """A batch that is the same at every step."""

    def __getitem__(self, step: int) -> StepData:
        return super().__getitem__(0)


def label_of(sample: Sample, name: str) -> Tensor:
    """One of several labels.  Raises WrongKind."""
    if not isinstance(sample.labels, Mapping) or name not in sample.labels:
        have = ", ".join(sample.labels) if isinstance(sample.labels, Mapping) else "one"
        raise WrongKind(f"has no label {name}; it has {have}")
    return torch.as_tensor(float(sample.labels[name]))
