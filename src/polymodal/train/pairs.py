"""Pictures (or other media) with their captions -> batches in which each pair is compared with the others.

    item: one medium and its caption, through the model's own processor        batch: pixel_values, input_ids, ...
    PairCollator          contrast                      MomentumCollator    and texts with hidden words, groups of texts
    CaptionedPairs        and the caption to write      MediaPairs          any two senses of a model of many encoders

Traps: a conversation is no caption: what somebody asks about a picture does not describe it.  Batches are not cut,
since every pair is the negative of every other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Image, Media, Text
from polymodal.data.pair_processor import PairProcessor
from polymodal.errors import ConfigError
from polymodal.train.alignment import WordMasking
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind, counted, require_special


@dataclass(frozen=True, kw_only=True)
class Pair:
    """pixels: of the picture.  ids: of its caption.  group: the number of what it is about, None: not known."""

    pixels: Tensor
    ids: list[int]
    group: int | None = None


@dataclass(frozen=True, kw_only=True)
class PairCollator(Collator):
    """longest: ids of a caption at most, the last of which stays."""

    expects: ClassVar[str] = "pictures with a caption each"
    compares: ClassVar[bool] = True

    processor: PairProcessor
    longest: int | None = None

    def item(self, sample: Sample) -> Pair:
        """A picture and its caption."""
        media, text = captioned(sample)
        if not isinstance(media, Image):
            raise WrongKind(f"has {media.modality} where a picture is expected")
        return self.pair(media, text, sample.group)

    def pair(self, picture: Image, text: str, group: str = "") -> Pair:
        """Through the model's processor."""
        return Pair(
            pixels=self.processor.pixels(picture),
            ids=cut(self.processor.ids(text), self.longest),
            group=int(hashlib.sha256(group.encode()).hexdigest()[:15], 16) if group else None,
        )

    def batch(self, items: Sequence[Pair], generator: torch.Generator) -> MicroBatch:
        """The processor's tensors."""
        return counted(self.tensors(items), len(items))

    def tensors(self, items: Sequence[Pair]) -> dict[str, Any]:
        """pixel_values, input_ids, attention_mask and whatever else the processor makes."""
        return self.processor.collate([each.pixels for each in items], [each.ids for each in items])


@dataclass(frozen=True, kw_only=True)
class MomentumCollator(PairCollator):
    """masking: which words are hidden; None: none.  What the loss does not take is left out."""

    masking: WordMasking | None = None
    groups: bool = True

    def batch(self, items: Sequence[Pair], generator: torch.Generator) -> MicroBatch:
        """And `masked_input_ids` with `labels`, and `image_ids` where the data says which texts share a picture."""
        found = self.tensors(items)
        if self.masking is not None:
            found["masked_input_ids"], found["labels"] = self.masking(found["input_ids"], generator)
        if self.groups and all(each.group is not None for each in items):
            found["image_ids"] = torch.tensor([each.group for each in items])
        return counted(found, len(items))


@dataclass(frozen=True, kw_only=True)
class CaptionedPairs(PairCollator):
    """begin: the token that a caption which is written begins with.  skipped: ids in front of each text that are no
    words."""

    begin: int
    skipped: int = 0

    def batch(self, items: Sequence[Pair], generator: torch.Generator) -> MicroBatch:
        """And the caption to write: `decoder_input_ids`, `decoder_attention_mask`, `labels` aligned with them."""
        found = self.tensors(items)
        ids, mask = (found[name][:, self.skipped :] for name in ("input_ids", "attention_mask"))
        written, labels = ids.clone(), ids.masked_fill(mask == 0, -100)
        written[:, 0], labels[:, 0] = self.begin, -100
        found |= {"decoder_input_ids": written, "decoder_attention_mask": mask, "labels": labels}
        return counted(found, len(items))


@dataclass(frozen=True, kw_only=True)
class MediaPairs(Collator):
    """Of models of many encoders: tensors(medium or text) -> the name of its tensor, its values.  expected: the names
    of the two tensors that a stage binds, as its data says; empty: any two."""

    expects: ClassVar[str] = "pairs of two senses, as a picture with its sound"
    compares: ClassVar[bool] = True

    tensors: Callable[[Any], tuple[str, Tensor]]

    def item(self, sample: Sample) -> dict[str, Tensor]:
        """Two media, or a medium and its caption."""
        if sample.media:
            things: Sequence[Any] = sample.media
        else:
            medium, text = captioned(sample)
            things = (medium, Text(text))
        found = dict(map(self.tensors, things))
        if len(things) != 2 or len(found) != 2:
            raise WrongKind(f"has {' and '.join(getattr(each, 'modality', 'text') for each in things)}")
        return found

    def batch(self, items: Sequence[Mapping[str, Tensor]], generator: torch.Generator) -> MicroBatch:
        """A tensor of each sense.  Raises WrongKind for pairs of different senses."""
        names = list(items[0])
        if odd := next((list(each) for each in items if set(each) != set(names)), None):
            raise WrongKind(f"a batch of pairs of {' and '.join(names)} has one of {' and '.join(odd)}")
        return counted({name: torch.stack([each[name] for each in items]) for name in names}, len(items))


def captioned(sample: Sample) -> tuple[Media, str]:
    """The one medium of a sample and what is said of it.  Raises WrongKind."""
    asked, *rest = sample.messages or (None,)
    if asked is None or len(rest) != 1:
        raise WrongKind("has no caption" if asked is None else f"has {len(sample.messages)} turns")
    if asked.text.strip():
        raise WrongKind("has a question and an answer, not a caption")
    if len(asked.media) != 1 or rest[0].media:
        raise WrongKind(f"has {len(asked.media) + len(rest[0].media)} media beside its caption; expected one")
    if not rest[0].text.strip():
        raise WrongKind("has an empty caption")
    return asked.media[0], rest[0].text


def cut(ids: list[int], longest: int | None) -> list[int]:
    """At most so many ids, the last of which stays: it ends the text."""
    return ids if longest is None or len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def pair_processor(learner: Learner, *, pictures: bool = True, texts: bool = True) -> PairProcessor:
    """The model's processor.  Raises ConfigError for a model that has none of pictures and texts."""
    found = learner.processor
    if isinstance(found, PairProcessor) and (found.takes_pictures or not pictures) and (found.takes_text or not texts):
        return found
    wanted = " and ".join(["pictures"] * pictures + ["texts"] * texts)
    raise ConfigError(
        f"this model has no processor of {wanted}: its folder lacks the tokenizer or the settings of pictures, or a "
        f"checkpoint of another of its classes is the one that this stage trains"
    )


def word_masking(learner: Learner, probability: float) -> WordMasking:
    """BERT's, over the whole vocabulary; special tokens are never hidden."""
    tokenizer = learner.processor.tokenizer
    name = "<mask>" if "<mask>" in tokenizer.special_tokens else "[MASK]"  # of sentencepiece, or of BERT
    mask = require_special(tokenizer, name, "hiding words")
    return WordMasking(
        mask=mask, vocabulary=tokenizer.vocab_size, exempt=sorted(tokenizer.special_ids), probability=probability
    )
