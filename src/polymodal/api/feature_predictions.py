"""What a method says of a file of features: lines of predictions, and rows for `evaluate`.

    predict_features(model, "features.pkl@test", out="predictions.jsonl")
        {"id": "03bSnISJMiM$_$1", "prediction": 1.52, "text": 0.9, ...}       scores, one a sample
        {"id": "Ses05F_impro04", "prediction": ["2", "2", "5", ...]}          classes, one an utterance

Traps: a file's own `test` split is taken where it has splits and the address names none; a class is written as a word,
since tasks compare words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.api.model import Model
from polymodal.api.tensors import answering, require_finite
from polymodal.errors import ConfigError, PromptError
from polymodal.evaluate.task import Task
from polymodal.nn.first_weight import first_weight
from polymodal.train.collator import WrongKind
from polymodal.train.feature_batches import DialogueBatches, feature_batches
from polymodal.train.feature_files import FeatureDataset
from polymodal.train.loop import placed

BATCH = 32
Line = dict[str, Any]


def predict_features(
    model: Model,
    data: str | Path,
    *,
    out: str | Path | None = None,
    batch: int = BATCH,
    done: Callable[[int, int], object] = lambda count, total: None,
) -> list[Line]:
    """A line for each sample of a file or folder of features, in its order; written as JSON lines where `out` is named.

    Raises ConfigError for a model that reads no features and a file that does not fit it, naming sample and modality.
    """
    dataset = FeatureDataset(Path(data), "test")
    lines: list[Line] = []
    for first in range(0, len(dataset), batch):
        some = range(first, min(first + batch, len(dataset)))
        try:
            lines += said(model, dataset, some)
        except PromptError as problem:
            raise ConfigError(str(problem)) from problem
        done(len(lines), len(dataset))
    if out is not None:
        try:
            Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        except OSError as problem:
            raise ConfigError(f"cannot write {out}: {problem.strerror}") from problem
    return lines


def said(model: Model, dataset: FeatureDataset, some: Sequence[int]) -> Iterator[Line]:
    """The lines of some samples.  Raises PromptError, naming the sample that does not fit the model."""
    collator = feature_batches(model.module)
    items = []
    for index in some:
        try:
            items.append(collator.item(dataset.sample(index)))
        except PromptError as problem:
            kind = WrongKind if isinstance(problem, WrongKind) else PromptError
            raise kind(f"{dataset.name(index)}: {problem}") from problem
    made = collator.batch(items, torch.Generator()).batch
    with torch.inference_mode(), answering(model):
        found = model.module(**placed(made, first_weight(model.module).device))
    if isinstance(collator, DialogueBatches):
        words = [require_finite(x, "logits").argmax(-1).tolist() for x in found.logits]
        counts = made["attention_mask"].sum(1).tolist()
        said = [{"prediction": [str(each) for each in row[:count]]} for row, count in zip(words, counts, strict=True)]
    else:
        said = scores(found.predictions, found.logits, len(items))
    for index, line in zip(some, said, strict=True):
        yield {"id": dataset.features[index].name, **line}


def scores(predictions: Mapping[str, Tensor] | None, logits: Tensor, count: int) -> list[Line]:
    """The score and what stands beside it, or the class where the model has several outputs."""
    values = {name: require_finite(x, f"predictions of {name}").tolist() for name, x in (predictions or {}).items()}
    if "score" in values:
        first = values.pop("score")
        return [{"prediction": first[i], **{name: each[i] for name, each in values.items()}} for i in range(count)]
    classes = require_finite(logits, "logits").argmax(-1).tolist()
    return [{"prediction": str(classes[i]), **{name: each[i] for name, each in values.items()}} for i in range(count)]


class FeatureRows:
    """The samples of a file of features as the records of a task: `label`, and its prediction by a model.

    An utterance of a dialogue is a record of its own.
    """

    def __init__(self, path: Path, task: Task, limit: int = 0) -> None:
        self.dataset, self.task = FeatureDataset(path, "test"), task
        places = []
        for index in range(len(self.dataset)):
            told = self.dataset.features[index].labels
            utterances = len(told["utterances"]) if "utterances" in told else 0
            places += [(index, step) for step in range(utterances)] or [(index, -1)]
        self.places = places[: limit or len(places)]
        self.count = len(self.places)
        self.found: dict[int, Any] = {}

    def __call__(self, index: int) -> Mapping[str, Any]:
        """Raises ConfigError for a sample without a label."""
        at, step = self.places[index]
        sample = self.dataset.features[at]
        told = sample.labels["utterances"][step] if step >= 0 else sample.labels.get("M")
        if told is None:
            raise ConfigError(f"{self.dataset.name(at)} has no label")
        words = self.task.name == "labels"
        name = sample.name if step < 0 else f"{sample.name}:{step + 1}"
        return {"id": name, "text": sample.text, "label": str(int(told)) if words else float(told)}

    def check(self) -> None:
        """Whether all records have what the task needs.  Raises ConfigError."""
        for index in range(self.count):
            self.task.check(self(index), self.name(index))

    def name(self, index: int) -> str:
        """Where a record is from."""
        return self.dataset.name(self.places[index][0])

    def media(self, index: int, field: str) -> Any:
        """There is none.  Raises ConfigError."""
        raise ConfigError(f"{self.name(index)} holds features, and no {field}")

    def predictor(self, model: Model) -> Callable[[Sequence[int]], Iterator[Mapping[str, Any]]]:
        """Numbers of records -> lines with their `prediction`."""
        feature_batches(model.module)

        def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
            missing = sorted({self.places[index][0] for index in some} - self.found.keys())
            if missing:
                self.found |= dict(zip(missing, said(model, self.dataset, missing), strict=True))
            for index in some:
                at, step = self.places[index]
                line = self.found[at]
                yield {"prediction": line["prediction"][step] if step >= 0 else line["prediction"]}

        return predict
