"""Which segment of CPM-Bee's tree each token of a batch belongs to: said by the batch, or read off its ids.

    <s><root></s><s>key</s><s>text</s> ... <s><ans></s><s>answer</s>        every <s> begins a segment

A processor's batch has ids alone, and its tree is flat (key, text, key, text).  The official collater also gives
`segment_ids`, `context`, `num_segments` [B, T] and `segment_rel` [B, n * n] of any tree, and the numbers of numbered
tokens, `input_id_subs` [B, T].
Traps: padding belongs to the root and counts as an answer, as the official zeros say; without `<ans>` all is context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.cpm_bee import Segments
from polymodal.errors import ConfigError
from polymodal.nn.segments import counted_within, largest_within

NOWHERE = 2**31  # more segments than any row has
TREE = ("segment_ids", "context", "num_segments", "segment_rel")


class TreeContext(nn.Module):
    """A `context` for MultimodalLM.  begin, answer: the ids of <s> and <ans>."""

    input_names = frozenset(TREE)

    def __init__(self, begin: int, answer: int) -> None:
        super().__init__()
        self.begin, self.answer = begin, answer

    def forward(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> Segments:
        """Raises ConfigError for a batch that gives some tensors of its tree and not the others."""
        given = [name for name in TREE if batch.get(name) is not None]
        if len(given) == len(TREE):
            return Segments(numbers=batch["segment_ids"], answers=~batch["context"].bool(), ways=batch["segment_rel"],
                            counts=batch["num_segments"].amax(1))  # fmt: skip
        if given:
            raise ConfigError(f"cpm-bee: expected all of {', '.join(TREE)} or none; found {', '.join(given)}")
        return flat(batch["input_ids"], batch.get("attention_mask"), self.begin, self.answer, batch.get("segments"))


def flat(input_ids: Tensor, mask: Tensor | None, begin: int, answer: int, packed: Tensor | None = None) -> Segments:
    """The segments of a flat tree, from its ids [B, T]; packed [B, T]: the numbers of several trees in a row."""
    real = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    begins, trees = (input_ids == begin) & real, torch.zeros_like(input_ids) if packed is None else packed
    numbers = (counted_within(begins.long().cumsum(-1), begins.long(), trees) - 1).clamp_min(0) * real
    is_key = (input_ids == answer) & real
    key = NOWHERE - largest_within(torch.where(is_key, NOWHERE - numbers, 0), trees)  # the first of each tree
    # An answer is the last segment, whatever a model writes in it.
    numbers = numbers.minimum(key + 1)
    return Segments(numbers=numbers, answers=(numbers > key) | ~real)


@dataclass(frozen=True, kw_only=True)
class NumberedIds:
    """A `prepare_inputs`: official tensors in the form that the model takes.  vocab_size: the decoder's."""

    vocab_size: int
    input_names: frozenset[str] = frozenset({"input_id_subs", "image_bound"})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Adds `image_mask` [B, T] for the columns in `image_bound` [B, 1, 2], begin and end."""
        bound = batch.get("image_bound")
        if bound is None:
            return {}
        place = torch.arange(batch["input_ids"].shape[1], device=bound.device)
        return {"image_mask": (place >= bound[:, 0, :1]) & (place < bound[:, 0, 1:])}

    def rewrite(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """`input_ids` with the numbers of `input_id_subs` in them."""
        made = {name: value for name, value in batch.items() if name != "input_id_subs"}
        if batch.get("input_id_subs") is not None:
            made["input_ids"] = batch["input_ids"] + self.vocab_size * batch["input_id_subs"]
        return made
