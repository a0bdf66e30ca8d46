"""What has a label -> batches: pictures of classes, questions with scored answers, sequences of features with a score.

    LabelledPictures    pixel_values, labels [N]                    a label is a name of the model's, or its number
    ScoredAnswers       pictures with questions, labels [N, A]      VQA: min(1, 0.3 * people who said it)
    LabelledSequences   a tensor [N, T, F] of each modality, padded in front, labels

Labels of a name that the model does not know, and numbers out of range, are refused by name.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Image
from polymodal.data.pair_processor import PairProcessor
from polymodal.errors import PromptError
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted

SCORE = ("score", "label", "M")  # of several labels, the one that stands for the whole sample (MMSA calls it M)


class UnknownLabel(PromptError):
    """A label that the model has no output for."""


def class_of(label: Any, labels: Sequence[str]) -> int:
    """Its number.  Raises UnknownLabel, naming the nearest."""
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    if isinstance(label, str) and label.strip().lstrip("-").isdigit():
        label = int(label)
    if isinstance(label, int) and not isinstance(label, bool):
        if 0 <= label < len(labels):
            return label
        raise UnknownLabel(
            f"label {label} is out of range: the model has {len(labels)} classes, 0 to {len(labels) - 1}"
        )
    near = difflib.get_close_matches(str(label), labels, n=3, cutoff=0.5) or labels[:3]
    raise UnknownLabel(
        f"label {str(label)[:60]!r} is none of the model's {len(labels)} classes; it knows {', '.join(map(repr, near))}"
    )


def picture_of(sample: Sample) -> Image:
    """The one picture of a sample.  Raises WrongKind."""
    media = [*sample.media, *(each for message in sample.messages for each in message.media)]
    if len(media) != 1 or not isinstance(media[0], Image):
        raise WrongKind(f"has {' and '.join(each.modality for each in media) or 'no media'}; expected one picture")
    return media[0]


@dataclass(frozen=True, kw_only=True)
class LabelledPictures(Collator):
    """labels: the model's."""

    expects: ClassVar[str] = "pictures with a label each"

    processor: PairProcessor
    labels: tuple[str, ...]

    def item(self, sample: Sample) -> tuple[Tensor, int]:
        """Pixels, and the number of the class."""
        picture = picture_of(sample)
        label = sample.labels
        if label is None and len(sample.messages) == 2 and not sample.messages[0].text:
            label = sample.messages[1].text  # a caption that is a class's name
        if label is None or isinstance(label, list | Mapping):
            raise WrongKind("has no label" if label is None else "has several labels; expected one")
        return self.processor.pixels(picture), class_of(label, self.labels)

    def batch(self, items: Sequence[tuple[Tensor, int]], generator: torch.Generator) -> MicroBatch:
        """pixel_values and labels [N]."""
        pixels, labels = zip(*items, strict=True)
        return counted({**self.processor.collate(pixels, []), "labels": torch.tensor(labels)}, len(items))


def told_answers(sample: Sample) -> Mapping[str, float]:
    """Answers with their scores: of the several people of VQA min(1, 0.3 * how many said it).  Raises WrongKind."""
    told = sample.labels
    if told is None and len(sample.messages) == 2:
        told = {sample.messages[1].text: 1.0}
    if isinstance(told, str):
        told = {told: 1.0}
    if isinstance(told, list):
        told = {answer: min(1.0, 0.3 * count) for answer, count in Counter(map(str, told)).items()}
    if not isinstance(told, Mapping):
        raise WrongKind("has no answers")
    return {str(answer): float(score) for answer, score in told.items()}


def answer_scores(told: Mapping[str, float], labels: Sequence[str]) -> Tensor:
    """[A], of the model's answers; others are left out.  Raises UnknownLabel where that is all of them."""
    scores = torch.zeros(len(labels))
    for answer, score in told.items():
        if answer in labels:
            scores[labels.index(answer)] = score
    if not scores.any():
        raise UnknownLabel(f"none of its answers is one of the model's {len(labels)}: {', '.join(told)[:80]}")
    return scores


@dataclass(frozen=True, kw_only=True)
class ScoredAnswers(Collator):
    """Questions about pictures, each answer of the model's vocabulary with a score; others are left out."""

    expects: ClassVar[str] = "pictures with a question and its answers each"

    processor: PairProcessor
    labels: tuple[str, ...]

    def item(self, sample: Sample) -> tuple[Tensor, list[int], Tensor]:
        """Pixels, ids of the question, a score for each answer."""
        picture, question = picture_of(sample), sample.messages[0].text if sample.messages else ""
        if not question:
            raise WrongKind("has no question")
        scores = answer_scores(told_answers(sample), self.labels)
        return self.processor.pixels(picture), self.processor.ids(question), scores

    def batch(self, items: Sequence[tuple[Tensor, list[int], Tensor]], generator: torch.Generator) -> MicroBatch:
        """pixel_values, input_ids, ... and labels [N, answers]."""
        pixels, ids, scores = zip(*items, strict=True)
        return counted({**self.processor.collate(pixels, ids), "labels": torch.stack(scores)}, len(items))


@dataclass(frozen=True, kw_only=True)
class LabelledSequences(Collator):
    """Feature sequences of any lengths, padded in front with zeros, since such models read the last step."""

    expects: ClassVar[str] = "sequences of features with a label each"

    def item(self, sample: Sample) -> tuple[dict[str, Tensor], Tensor]:
        """A tensor [T, F] of each modality, and the label: whole numbers are classes, others scores."""
        if not sample.features:
            raise WrongKind("has no features")
        label = sample.labels
        if isinstance(label, Mapping):
            name = next((name for name in SCORE if name in label), next(iter(label)) if len(label) == 1 else None)
            label = None if name is None else label[name]
        if isinstance(label, str):
            label = number(label)
        if label is None or label == []:
            raise WrongKind("has no label")
        features = {name: torch.as_tensor(each.values).float() for name, each in sample.features.items()}
        if odd := next((name for name, each in features.items() if each.dim() != 2), None):
            raise PromptError(f"its {odd} is {list(features[odd].shape)}; expected [steps, features]")
        return features, torch.as_tensor(label)

    def batch(self, items: Sequence[tuple[dict[str, Tensor], Tensor]], generator: torch.Generator) -> MicroBatch:
        """A tensor [N, T, F] by modality, and `labels`.  Raises WrongKind for samples of different modalities."""
        names = list(items[0][0])
        if odd := next((list(each) for each, _ in items if set(each) != set(names)), None):
            raise WrongKind(f"a batch of {', '.join(names)} has a sample of {', '.join(odd)}")
        batch: dict[str, Any] = {
            name: pad_sequence([each[name] for each, _ in items], batch_first=True, padding_side="left")
            for name in names
        }
        labels = [label for _, label in items]
        if any(label.is_floating_point() for label in labels):
            labels = [label.float() for label in labels]
        return counted({**batch, "labels": torch.stack(labels)}, len(items))


def number(text: str) -> float | int:
    """A number written in a table.  Raises PromptError for what is none."""
    try:
        return int(text) if text.strip().lstrip("-").isdigit() else float(text)
    except ValueError:
        raise PromptError(f"its label is {text[:40]!r}; expected a number") from None
