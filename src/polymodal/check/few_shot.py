"""The headline of the Flamingo family, seen: pictures with their names as examples, then a picture to name.

    six real pictures -> training talks (three of them with names, in many orders) -> weights saved as published
    -> loaded again -> talks in orders never trained: is the last picture named right?

The picture asked about is the only thing that differs between two talks with equal examples, so a model that looks at
the wrong picture of the prompt fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import QUESTION, write_weights
from polymodal.check.record import HeadlineResult, TrainingCheck
from polymodal.check.training import learned
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.train.objectives import LanguageModeling


def conversation(samples: Sequence[tuple[Any, str]], order: Sequence[int], answered: bool) -> list[Message]:
    """Pictures in this order, each asked about and named; the last one only if `answered`."""
    messages = []
    for position, index in enumerate(order):
        picture, name = samples[index]
        messages.append(Message(role="user", parts=(pm.image(picture), Text(QUESTION))))
        if answered or position < len(order) - 1:
            messages.append(Message(role="assistant", parts=(Text(name),)))
    return messages


def few_shot_headline(
    folder: Path, model_spec: Any, *, system: str, count: int = 6, shots: int = 2, steps: int = 120, lr: float = 3e-3
) -> HeadlineResult:
    """Train the tiny published folder on all orders of the pictures but twelve, and ask in those."""
    samples = real.pictures()[:count]
    orders = list(itertools.permutations(range(count), shots + 1))
    generator = torch.Generator().manual_seed(0)
    orders = [orders[i] for i in torch.randperm(len(orders), generator=generator).tolist()]
    trained, asked = orders[12:], orders[:12]
    model = pm.load(folder, system=system)

    def batches(step: int) -> Any:
        chosen = [trained[(step * 8 + i) % len(trained)] for i in range(8)]
        return model.processor([conversation(samples, order, True) for order in chosen])

    lesson = TrainingCheck(model=model.module, batches=batches, steps=steps, lr=lr)
    write_weights(folder, learned(lesson, LanguageModeling()), model_spec.keys[0])
    again = pm.load(folder, system=system)
    right = 0
    for order in asked:
        answer = again.chat(conversation(samples, order, False), max_tokens=24).text.strip()
        right += answer == samples[order[-1]][1]
    words = f"{right} of {len(asked)} pictures named right after {shots} examples, in orders never trained"
    return HeadlineResult(
        ok=right >= len(asked) - 2, evidence=f"tiny weights and real pictures, from a published folder: {words}"
    )
