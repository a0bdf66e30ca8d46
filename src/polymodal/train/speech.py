"""What is said in recordings, learned by connectionist temporal classification (Graves et al. 2006).

    {"audio": "a.wav", "transcript": "two coffees"}                                         one recording, one text
    {"audio": "a.wav", "labels": [{"start": 0.2, "end": 1.9, "text": "two coffees"}, ...]}   several in one window
    encoders.audio, frozen -> the frames of each text -> connectors.audio: logits of tokens, and, from its early blocks
    through a head that only training has, logits of letters

Several texts a recording, since an encoder of 30 s windows costs the same for one of two seconds.
Traps: a text whose tokens the connector does not have, or that was said too fast for its frames, is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polymodal.connectors.ctc import CTCConnector, halved
from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Audio
from polymodal.data.processor import Modality, Processor
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders.whisper import FRAMES_PER_SECOND
from polymodal.errors import ConfigError, PromptError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.losses import ctc_loss
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind, counted
from polymodal.train.objectives import Batch, Loss, Losses

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
FEATURES = FRAMES_PER_SECOND // 2  # of the encoder, a second
LENGTHS = "audio_lengths"
TOGETHER = 8  # texts that pass the connector at once; all of a batch would be padded to its longest


@dataclass(frozen=True, kw_only=True)
class CTC:
    """One or several heads, each with its weight: "tokens" and "letters" of a model that hears through a CTC connector.

    Of another model the heads are its predictions: logits [N, S, C], the blank last, with "<head>_lengths" [N], and a
    batch has `targets`, head -> a list of ids for each item.  mask_frames, mask_channels: how many neighbours at most
    are set to their mean in training (SpecAugment, arXiv 1904.08779).
    """

    name: ClassVar[str] = "ctc"
    weights: Mapping[str, float]
    mask_frames: int = 0
    mask_channels: int = 0

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, MultimodalLM):
            return CTCLoss(self.weights)
        if unknown := set(self.weights) - {"tokens", "letters"}:
            raise ConfigError(f"objective: ctc has the heads tokens and letters, and none of {sorted(unknown)[0]!r}")
        return SpeechLoss(self, hearing(model))

    def collator(self, learner: Learner) -> Collator:
        """Recordings with texts.  Raises ConfigError for a model that does not hear through a CTC connector."""
        connector, processor = hearing(learner.module), learner.processor
        if not isinstance(processor, Processor) or "audio" not in processor.modalities:
            raise ConfigError("this model has no processor of recordings")
        return SaidTexts(
            modality=processor.modalities["audio"],
            tokenizer=processor.tokenizer,
            classes={token: index for index, token in enumerate(connector.token_ids.tolist())},
        )


def hearing(model: nn.Module) -> CTCConnector:
    """The connector of recordings.  Raises ConfigError for a model without one."""
    found = dict(model.connectors.items()).get("audio") if isinstance(model, MultimodalLM) else None
    if not isinstance(found, CTCConnector):
        raise ConfigError("objective: what is said is learned by a CTC connector, which this model lacks")
    return found


class CTCLoss(Loss):
    """Of heads that are the model's predictions."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        found = model(**{name: value for name, value in batch.items() if name != "targets"}).predictions
        return {
            head: weight * ctc_loss(found[head], found[f"{head}_lengths"], batch["targets"][head])
            for head, weight in self.weights.items()
        }


class SpeechLoss(Loss):
    """letters: the head that only training has."""

    def __init__(self, config: CTC, connector: CTCConnector) -> None:
        super().__init__()
        self.config = config
        self.letters = nn.Linear(connector.config.width, len(LETTERS) + 1) if "letters" in config.weights else None

    def forward(self, model: Any, batch: Batch) -> Losses:
        connector, heard = hearing(model), model.encoded("audio", batch)
        rows = [heard[item, first:end] for item, first, end in batch["spans"]]
        if self.training:
            rows = [masked(row, self.config.mask_frames, self.config.mask_channels) for row in rows]
        found: dict[str, list[Tensor]] = {head: [] for head in self.config.weights}
        for group in of_like_length(rows):
            targets = {head: [batch["targets"][head][index] for index in group] for head in found}
            for head, loss in self.means(connector, [rows[index] for index in group], targets).items():
                found[head].append(loss * len(group) / len(rows))
        return {f"ctc_{head}": self.config.weights[head] * torch.stack(losses).sum() for head, losses in found.items()}

    def means(
        self, connector: CTCConnector, rows: list[Tensor], targets: Mapping[str, list[list[int]]]
    ) -> dict[str, Tensor]:
        """The mean loss of each head over texts with features [S_i, D]."""
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        frames = connector.frames(pad_sequence(rows, batch_first=True), lengths)
        found = {"tokens": (connector.logits(frames, lengths), halved(lengths))}
        if self.letters is not None:
            found["letters"] = self.letters(frames), lengths
        return {head: ctc_loss(*found[head], targets[head]) for head in targets}


def of_like_length(rows: Sequence[Tensor]) -> list[list[int]]:
    """The numbers of rows in groups of `TOGETHER`, by length."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    return [order[first : first + TOGETHER] for first in range(0, len(order), TOGETHER)]


def masked(row: Tensor, frames: int, channels: int) -> Tensor:
    """Features [S, D] with some neighbouring frames, and some channels, at the mean of the row."""
    row, mean = row.clone(), row.mean(0)
    if frames:
        first, size = int(torch.randint(len(row), ())), int(torch.randint(frames, ()))
        row[first : first + size] = mean
    if channels:
        first, size = int(torch.randint(row.shape[1], ())), int(torch.randint(channels, ()))
        row[:, first : first + size] = mean[first : first + size]
    return row


class Said(NamedTuple):
    """A text in a recording: its frames, and its ids by head."""

    first: int
    end: int
    ids: Mapping[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class SaidTexts(Collator):
    """modality: of recordings.  classes: of the tokens that the connector has."""

    expects: ClassVar[str] = "recordings with what is said in them"

    modality: Modality
    tokenizer: Tokenizer
    classes: Mapping[int, int]

    def item(self, sample: Sample) -> tuple[Any, list[Said]]:
        """What the model takes of the recording, and its texts."""
        media = [*sample.media, *(each for message in sample.messages for each in message.media)]
        if len(media) != 1 or not isinstance(media[0], Audio):
            raise WrongKind(
                f"has {' and '.join(each.modality for each in media) or 'no media'}; expected one recording"
            )
        values = self.modality.transform(media[0])
        frames = int(values[LENGTHS])
        if isinstance(sample.labels, list):
            parts = [x for x in sample.labels if isinstance(x, Mapping) and {*x} >= {"start", "end", "text"}]
            texts = [(x["text"], int(x["start"] * FEATURES), math.ceil(x["end"] * FEATURES)) for x in parts]
        else:
            texts = [(sample.messages[-1].text, 0, frames)] if len(sample.messages) == 2 else []
        if not texts:
            raise WrongKind("has no text of what is said")
        return values, [self.said(str(text), first, min(end, frames)) for text, first, end in texts]

    def said(self, text: str, first: int, end: int) -> Said:
        """A text at its frames.  Raises PromptError for one that cannot be learned there."""
        tokens = [self.classes.get(each, -1) for each in self.tokenizer.encode(text)]
        letters = [LETTERS.index(letter) for letter in letters_of(text)]
        if not tokens or min(tokens) < 0:
            raise PromptError(f"{text[:40]!r}: has tokens that the connector does not know, or none")
        if needed(tokens) > (end - first) // 2 or needed(letters) > end - first:
            raise PromptError(f"{text[:40]!r}: is said in {end - first} frames, too fast to be told apart")
        return Said(first=first, end=end, ids={"tokens": tokens, "letters": letters})

    def batch(self, items: Sequence[tuple[Any, list[Said]]], generator: torch.Generator) -> MicroBatch:
        """audio_values ..., `spans` (item, first frame, end) of each text, `targets` by head."""
        values, said = zip(*items, strict=True)
        every = [(item, each) for item, texts in enumerate(said) for each in texts]
        spans = [(item, each.first, each.end) for item, each in every]
        targets = {head: [each.ids[head] for _, each in every] for head in ("tokens", "letters")}
        return counted({**self.modality.batch(list(values)), "spans": spans, "targets": targets}, len(every))


def needed(ids: Sequence[int]) -> int:
    """Frames that a path through these ids takes at least: equal neighbours have a blank between them."""
    return len(ids) + sum(one == other for one, other in pairwise(ids)) + 1


def letters_of(text: str) -> str:
    """In lower case, with letters, apostrophes and single spaces alone."""
    return " ".join("".join(letter if letter in LETTERS else " " for letter in text.lower()).split())
