"""Lessons of the fusion encoders at tiny size: real pictures and their names, letter by letter.

picture [3, side, side];  [CLS] letters [SEP] -> contrast with queue and teacher, match with hard negatives, masked
letters, or the next letter -> the loss must fall
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.check import real
from polymodal.check.record import TrainingCheck
from polymodal.check.training import LETTERS, letters, rows, table
from polymodal.nn.losses import masked_token_loss, match_loss, negatives
from polymodal.train import alignment

PAD, CLS, SEP, FIRST, MASK = 0, 1, 2, 3, 30
VOCABULARY = 32
MASKING = alignment.WordMasking(mask=MASK, vocabulary=FIRST + len(LETTERS), exempt=(PAD, CLS))
BATCH = 8


def written(chosen: list[int]) -> dict[str, Tensor]:
    """The names of some pictures as `input_ids`, `attention_mask`."""
    names = real.captions()
    texts = [[CLS, *letters(names[i], FIRST), SEP] for i in chosen]
    return {"input_ids": table(texts, PAD), "attention_mask": table([[1] * len(text) for text in texts], 0)}


def pairs(side: int, count: int = real.COUNT, batch: int = BATCH) -> Callable[[int], dict[str, Tensor]]:
    """step -> batch of pictures with their names, of the first `count`."""
    pixels = real.pixels(side)

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, batch, count)
        return {**written(chosen), "pixel_values": pixels[chosen]}

    return batches


def units(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Joint vectors of pictures and texts, of length one."""
    found = model.features(**batch)
    return F.normalize(found["image"], dim=-1), F.normalize(found["text"], dim=-1)


class Aligning:
    """Contrast + match (+ masked letters) of a FusionEncoder, as ALBEF and BLIP train it."""

    def __init__(self, model: nn.Module, width: int, *, alpha: float = 0.4, queue: int = 2 * BATCH):
        self.teacher = alignment.Teacher(model)
        self.queue = alignment.FeatureQueue(queue, width)
        self.generator = torch.Generator().manual_seed(0)
        self.alpha = alpha

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        if model.temperature is not None:
            alignment.keep_within(model.temperature, 0.001, 0.5)
        self.teacher.follow(model)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            taught = units(self.teacher.model, batch)
        scale = partial(alignment.scaled, temperature=0.07 if model.temperature is None else model.temperature)
        found = alignment.contrast(units(model, batch), taught, self.queue, scale, alpha=self.alpha)
        self.queue.push(*taught)
        image = model.image(batch["pixel_values"])
        texts = negatives(found.image_to_text, self.generator, floor=1e-4)
        images = negatives(found.text_to_image, self.generator, floor=1e-4)
        states = torch.cat((image, image[images], image))
        matched = model.match_logits(states, torch.cat((ids, ids, ids[texts])), torch.cat((mask, mask, mask[texts])))
        loss = found.loss + match_loss(matched, len(ids))
        if model.token_head is None:
            return loss
        masked, labels = MASKING(ids, self.generator)
        given = {**batch, "input_ids": masked}
        teacher: Any = self.teacher.model
        with torch.no_grad():
            soft = teacher.masked_words(**given)
        return loss + masked_token_loss(model.masked_words(**given), labels, soft, self.alpha)


def align_lesson(model: nn.Module, side: int, width: int, *, alpha: float = 0.4, steps: int = 40) -> TrainingCheck:
    """A FusionEncoder learns pairs."""
    return TrainingCheck(
        model=model, batches=pairs(side), objective=Aligning(model, width, alpha=alpha), steps=steps, lr=2e-3
    )


def write_lesson(
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
        return {**batch, "input_ids": asked, "decoder_input_ids": answer, "decoder_attention_mask": mask}

    def objective(model: Any, batch: dict[str, Tensor]) -> Tensor:
        given = {name: value for name, value in batch.items() if name != "labels"}
        weights = torch.ones(len(batch["labels"])) if question else None
        return model(**given, labels=batch["labels"], label_smoothing=0.1, answer_weights=weights).loss

    return TrainingCheck(model=model, batches=batches, objective=objective, steps=steps, lr=2e-3)


def train(training_check: TrainingCheck) -> nn.Module:
    """All parameters of the lesson's model, by its own objective."""
    optimiser = torch.optim.AdamW(training_check.model.parameters(), lr=training_check.lr)
    training_check.model.train()
    for step in range(training_check.steps):
        loss = training_check.objective(training_check.model, training_check.batches(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return training_check.model.eval()
