"""Tweets with pictures as TomBERT learns from them.

{"image": "a.jpg", "text": "$T$ wins the cup", "target": "France", "label": "positive"}

A label is the name of one of the model's classes, or its number (of Twitter-15 and 17: negative, neutral, positive).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.datasets.sample import Sample
from polymodal.data.tokenizer import Tokenizer
from polymodal.systems.tombert.inputs import picture_values, tweet_inputs
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted
from polymodal.train.labelled import class_of, picture_of

NAMES = {"input_ids": "attention_mask", "target_ids": "target_mask"}


@dataclass(frozen=True, kw_only=True)
class TargetedTweets(Collator):
    """labels: the model's classes.  pad: fills short texts.  longest: ids of the tweet with its target."""

    expects: ClassVar[str] = "pictures with a text, a target in it and a label each"

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    pad: int
    longest: int

    def item(self, sample: Sample) -> tuple[dict[str, Tensor], Tensor, int]:
        """Ids of tweet and target, pixels, the number of the class."""
        if not sample.target:
            raise WrongKind("has no target")
        picture, label = picture_of(sample), sample.labels
        if label is None or isinstance(label, list | Mapping):
            raise WrongKind("has no label" if label is None else "has several labels; expected one")
        ids = tweet_inputs(self.tokenizer, sample.messages[0].text, sample.target, self.longest)
        return (
            {name: each[0] for name, each in ids.items()},
            picture_values(picture.picture),
            class_of(label, self.labels),
        )

    def batch(self, items: Sequence[tuple[dict[str, Tensor], Tensor, int]], generator: torch.Generator) -> MicroBatch:
        """Both texts with their masks, pixel_values, labels [B]."""
        rows, pixels, labels = zip(*items, strict=True)
        batch: dict[str, Any] = {
            name: pad_sequence([row[name] for row in rows], True, self.pad if name in NAMES else 0) for name in rows[0]
        }
        for name, mask in NAMES.items():
            batch[mask] = pad_sequence([torch.ones_like(row[name]) for row in rows], True, 0)
        return counted({**batch, "pixel_values": torch.stack(pixels), "labels": torch.tensor(labels)}, len(items))
