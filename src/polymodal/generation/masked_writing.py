"""Captions of models that learn by hidden words: each word is asked for by a [MASK] behind those so far (BEiT-3).

    pictures, [BOS] ... words so far, [MASK] -> logits at the [MASK] -> the next words of every beam

Beams as published (code of arXiv 2208.10442): of three times as many continuations as beams, an end token finishes a
caption, whose score is the sum of log-probabilities divided by length ** penalty; the best finished one is the answer.
Trap: a caption that ends early can win over the words that are likeliest one by one, so greedy writing is `beams=1`
without end tokens alone.  Every step is a whole pass: nothing is cached.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multiway import WritingIds

CONTINUATIONS = 3  # a beam


@runtime_checkable
class WritesByMasks(Protocol):
    """A model called as `model(pixel_values=, input_ids=) -> Output`, whose logits [B, T, V] are of the same place."""

    writing_ids: WritingIds | None
    text_length: int


@dataclass
class _Finished:
    """The best finished caption of one picture."""

    penalty: float
    most: int
    score: float = float("-inf")
    ids: tuple[int, ...] = field(default=())

    def add(self, ids: tuple[int, ...], total: float) -> None:
        score = total / (len(ids) + 1) ** self.penalty  # the place of the next word counts, as published
        if not self.ids or score > self.score:
            self.score, self.ids = score, ids

    def surely_best(self, best: float) -> bool:
        """Whether no caption that is being written can become better."""
        return bool(self.ids) and self.score >= best / self.most**self.penalty


def can_write(model: Any) -> bool:
    return isinstance(model, WritesByMasks) and model.writing_ids is not None


@torch.inference_mode()
def write(model: Any, pixel_values: Tensor, options: SamplingOptions, ends: Collection[int]) -> list[tuple[int, ...]]:
    """Words behind the begin token for each picture, without the end token.  ends: () writes max_tokens words.

    Raises ConfigError for options of sampling, which were never published for this way of writing.
    """
    if options.temperature:
        raise ConfigError("captions by masks are written greedily or by beams; set temperature=0")
    # Begin token, words, and the place of the next one, whose score counts where a caption found no end itself.
    most = min(options.max_tokens + 2, model.text_length)
    return [_caption(model, pixels[None], options, frozenset(ends), most) for pixels in pixel_values]


def _caption(model: Any, pixels: Tensor, options: SamplingOptions, ends: frozenset[int], most: int) -> tuple[int, ...]:
    ids, beams = model.writing_ids, options.beams
    finished = _Finished(options.length_penalty, most)
    rows: list[tuple[tuple[int, ...], float]] = [((ids.bos,), 0.0)]
    for length in range(2, most + 1):
        scores = _scores(model, pixels, [row for row, _ in rows], ids.mask)
        scores = scores + torch.tensor([total for _, total in rows], device=scores.device)[:, None]
        count = scores.shape[1]
        best = torch.topk(scores.flatten(), min(CONTINUATIONS * beams, scores.numel()))
        if finished.surely_best(float(best.values[0])):
            break
        going: list[tuple[tuple[int, ...], float]] = []
        for total, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, word = rows[place // count][0], place % count
            if length == most or word in ends:
                finished.add(row, total)
            else:
                going.append(((*row, word), total))
            if len(going) == beams:
                break
        rows = going
        if not rows:
            break
    return finished.ids[1:]


def _scores(model: Any, pixels: Tensor, rows: Sequence[tuple[int, ...]], mask: int) -> Tensor:
    """Log-probabilities [beams, V] of the word behind each row."""
    given = torch.tensor([[*row, mask] for row in rows], device=pixels.device)
    logits = model(pixel_values=pixels.expand(len(rows), *pixels.shape[1:]), input_ids=given).logits
    return logits[:, -1].float().log_softmax(-1)
