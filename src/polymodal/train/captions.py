"""Captions and answers for a model that reads a picture and writes (VisionEncoderDecoder: BLIP, ALBEF) -> batches.

    WrittenCaptions   [start] prompt caption [SEP]     labels of the caption; the prompt is what was asked
    WrittenAnswers    question -> input_ids            [start] answer [SEP] -> decoder_input_ids, labels, answer_weights

Several answers of one question (VQA's ten) are rows of their own, each with the share of people who gave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.pair_processor import PairProcessor
from polymodal.errors import PromptError
from polymodal.nn.losses import IGNORE
from polymodal.train.collator import Collator, MicroBatch, WrongKind
from polymodal.train.labelled import picture_of
from polymodal.train.pairs import cut


@dataclass(frozen=True, kw_only=True)
class Written:
    """pixels: of the picture.  asked: ids of the prompt or question.  answers: ids of each, with its weight."""

    pixels: Tensor
    asked: list[int]
    answers: list[tuple[list[int], float]]


@dataclass(frozen=True, kw_only=True)
class WrittenCaptions(Collator):
    """start: the id that a text which is written begins with.  longest: ids of a text at most."""

    expects: ClassVar[str] = "pictures with a caption, or a question and its answer, each"

    processor: PairProcessor
    start: int
    longest: int | None = None

    def item(self, sample: Sample) -> Written:
        """A picture, what was asked of it, and what is said."""
        picture = picture_of(sample)
        *asked, answer = sample.messages or (None,)
        question = asked[-1].text.strip() if asked and asked[-1] is not None else ""
        if len(asked) > 1 or (answer is None):
            raise WrongKind("has no caption" if answer is None else f"has {len(asked) + 1} turns; expected two")
        told = sample.labels if isinstance(sample.labels, list | Mapping) else [answer.text]
        if answer.role != "assistant" and sample.labels is None:
            raise WrongKind("has no answer")
        if answer.role != "assistant":
            question, told = answer.text.strip(), told if told != [answer.text] else [str(sample.labels)]
        counts = dict(told) if isinstance(told, Mapping) else Counter(map(str, told))
        total = sum(counts.values())
        if not total or not all(text.strip() for text in counts):
            raise PromptError("has an empty caption or answer")
        return Written(
            pixels=self.processor.pixels(picture),
            asked=self.processor.ids(question),
            answers=[(self.ids(question, text), count / total) for text, count in counts.items()],
        )

    def ids(self, asked: str, answer: str) -> list[int]:
        """Of what is written: behind the prompt."""
        return self._begun(self.processor.ids(f"{asked} {answer}" if asked else answer))

    def _begun(self, ids: list[int]) -> list[int]:
        return [self.start, *cut(ids, self.longest)[1:]]

    def batch(self, items: Sequence[Written], generator: torch.Generator) -> MicroBatch:
        """input_ids with the caption, labels behind the prompt."""
        rows = [(each, ids) for each in items for ids, _ in each.answers]
        found = self.processor.collate([each.pixels for each, _ in rows], [ids for _, ids in rows])
        labels = found["input_ids"].masked_fill(found["attention_mask"] == 0, IGNORE)
        for row, (each, _) in enumerate(rows):
            labels[row, : len(each.asked) - 1] = IGNORE  # its first token too, without its end
        found.pop("token_type_ids", None)
        return MicroBatch(
            batch={**found, "labels": labels},
            targets=int((labels[:, 1:] != IGNORE).sum()),
            tokens=int(found["attention_mask"].sum()),
        )


@dataclass(frozen=True, kw_only=True)
class WrittenAnswers(WrittenCaptions):
    """The question goes to an encoder of its own."""

    expects: ClassVar[str] = "pictures with a question and its answers each"

    def item(self, sample: Sample) -> Written:
        """As for captions, but somebody asked."""
        found = super().item(sample)
        if not any(message.text.strip() for message in sample.messages if message.role == "user"):
            raise WrongKind("has no question")
        return found

    def ids(self, asked: str, answer: str) -> list[int]:
        """Of the answer alone."""
        return self._begun(self.processor.ids(answer))

    def batch(self, items: Sequence[Written], generator: torch.Generator) -> MicroBatch:
        """A row for each answer: `input_ids` of the question, `decoder_input_ids`, `labels`, `answer_weights`."""
        rows = [(each, ids, weight) for each in items for ids, weight in each.answers]
        asked = self.processor.collate([each.pixels for each, _, _ in rows], [each.asked for each, _, _ in rows])
        said = self.processor.collate([], [ids for _, ids, _ in rows])
        labels = said["input_ids"].masked_fill(said["attention_mask"] == 0, IGNORE)
        labels[:, 0] = IGNORE
        batch: dict[str, Any] = {
            **{name: value for name, value in asked.items() if name != "token_type_ids"},
            "decoder_input_ids": said["input_ids"],
            "decoder_attention_mask": said["attention_mask"],
            "labels": labels,
            # The loss divides the sum by the rows; what counts is the number of questions.
            "answer_weights": torch.tensor([weight for _, _, weight in rows]) * (len(rows) / len(items)),
        }
        return MicroBatch(batch=batch, targets=len(items), tokens=int(asked["attention_mask"].sum() + labels.numel()))
