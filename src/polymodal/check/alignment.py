"""Training checks of the fusion encoders at tiny size: real pictures and their names, letter by letter.

picture [3, side, side];  [CLS] letters [SEP] -> contrast with queue and teacher, match with hard negatives, masked
letters, or the next letter -> the loss must fall
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from polymodal.check import real
from polymodal.check.record import TrainingCheck
from polymodal.check.training import LETTERS, letters, rows, table
from polymodal.train.alignment import WordMasking

PAD, CLS, SEP, FIRST, MASK = 0, 1, 2, 3, 30
VOCABULARY = 32
MASKING = WordMasking(mask=MASK, vocabulary=FIRST + len(LETTERS), exempt=(PAD, CLS))
BATCH = 8
Batches = Callable[[int], dict[str, Tensor]]


def name_batch(chosen: list[int]) -> dict[str, Tensor]:
    """The names of some pictures as `input_ids`, `attention_mask`."""
    names = real.captions()
    texts = [[CLS, *letters(names[i], FIRST), SEP] for i in chosen]
    return {"input_ids": table(texts, PAD), "attention_mask": table([[1] * len(text) for text in texts], 0)}


def pairs(side: int, count: int = real.COUNT, batch: int = BATCH) -> Batches:
    """step -> batch of pictures with their names, of the first `count`."""
    pixels = real.pixels(side)

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, batch, count)
        return {**name_batch(chosen), "pixel_values": pixels[chosen]}

    return batches


def with_masked_words(made: Batches) -> Batches:
    """The same batches with some letters hidden: `masked_input_ids` and, for them, `labels`."""

    def batches(step: int) -> dict[str, Tensor]:
        batch = made(step)
        masked, labels = MASKING(batch["input_ids"], torch.Generator().manual_seed(step))
        return {**batch, "masked_input_ids": masked, "labels": labels}

    return batches


def alignment_check(model: nn.Module, side: int, *, masked: bool = False, steps: int = 40) -> TrainingCheck:
    """A FusionEncoder learns pairs; masked: and letters that are hidden."""
    batches = pairs(side)
    return TrainingCheck(model=model, batches=with_masked_words(batches) if masked else batches, steps=steps, lr=2e-3)


def captioning_check(
    model: nn.Module, side: int, *, question: bool = False, count: int = real.COUNT, steps: int = 40
) -> TrainingCheck:
    """A VisionEncoderDecoder learns to write the names of `count` pictures; `question`: asked by one letter."""
    made = pairs(side, count)

    def batches(step: int) -> dict[str, Tensor]:
        batch = made(step)
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        batch["labels"][:, 0] = -100
        if not question:
            return batch
        answer, mask = batch.pop("input_ids"), batch.pop("attention_mask")
        asked = torch.tensor([[CLS, FIRST, SEP]]).expand(len(answer), -1)
        weights = torch.ones(len(answer))
        return {**batch, "input_ids": asked, "decoder_input_ids": answer, "decoder_attention_mask": mask,
                "answer_weights": weights}  # fmt: skip

    return TrainingCheck(model=model, batches=batches, steps=steps, lr=2e-3)
