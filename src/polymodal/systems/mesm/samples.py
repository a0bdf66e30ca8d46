"""Clips of speech as MESM learns from them: what was said, the faces that were seen, the sound, and the emotions.

    {"text": "I am so glad", "images": ["a.jpg", "b.jpg"], "audio": "a.wav", "labels": ["happiness"]}

The pictures are faces, cut out beforehand.  Labels are names of the model's emotions, numbers by name (what is above 0
is there), or 0 and 1 in the model's order.
Trap: sound is read at 16 kHz; the official code reads each file at its own rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Audio, Image
from polymodal.errors import PromptError
from polymodal.systems.mesm.inputs import face_values, spectrogram_pieces
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted
from polymodal.train.labelled import class_of

RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class EmotionClips(Collator):
    """ids: sentence -> token ids.  emotions: of the model's logits.  side: of a face.  pad: fills short sentences."""

    expects: ClassVar[str] = "sentences with faces, a sound and the labels of their emotions each"

    ids: Callable[[str], Sequence[int]]
    emotions: tuple[str, ...]
    side: int
    pad: int = 0

    def item(self, sample: Sample) -> tuple[list[int], Tensor, Tensor, Tensor]:
        """Ids, faces, pieces of the spectrogram, labels."""
        media = [*sample.media, *(each for message in sample.messages for each in message.media)]
        faces = [each for each in media if isinstance(each, Image)]
        sounds = [each for each in media if isinstance(each, Audio)]
        text = " ".join(message.text for message in sample.messages if message.text.strip())
        if not text or not faces or len(sounds) != 1:
            said = f"{len(faces)} faces, {len(sounds)} sounds" + ("" if text else ", no words")
            raise WrongKind(f"has {said}; expected words, faces and one sound")
        heard = torch.from_numpy(sounds[0].samples(RATE).copy())
        seen = torch.stack([face_values(face.picture, self.side) for face in faces])
        return list(self.ids(text)), seen, spectrogram_pieces(heard, RATE), self.labels(sample.labels)

    def labels(self, told: Any) -> Tensor:
        """0 and 1 of each emotion.  Raises WrongKind for none, PromptError for those that the model does not know."""
        count, made = len(self.emotions), torch.zeros(len(self.emotions))
        if isinstance(told, list) and told and all(type(each) in (int, float) for each in told):
            if len(told) != count:
                raise PromptError(f"has {len(told)} labels; the model has {count} emotions: {', '.join(self.emotions)}")
            return (torch.tensor(told) > 0).float()
        if isinstance(told, str):
            told = [told]
        if not isinstance(told, list | Mapping):
            raise WrongKind("has no labels")
        for name in told:
            if not isinstance(told, Mapping) or told[name] > 0:
                made[class_of(name, self.emotions)] = 1.0
        return made

    def batch(
        self, items: Sequence[tuple[list[int], Tensor, Tensor, Tensor]], generator: torch.Generator
    ) -> MicroBatch:
        """Faces and pieces of all samples one after the other, with how many each has."""
        ids, faces, pieces, labels = zip(*items, strict=True)
        longest = max(map(len, ids))
        batch = {
            "input_ids": torch.tensor([[*row, *[self.pad] * (longest - len(row))] for row in ids]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
            "faces": torch.cat(faces),
            "face_counts": torch.tensor([len(each) for each in faces]),
            "spectrograms": torch.cat(pieces),
            "spectrogram_counts": torch.tensor([len(each) for each in pieces]),
            "labels": torch.stack(labels),
        }
        return counted(batch, len(items))
