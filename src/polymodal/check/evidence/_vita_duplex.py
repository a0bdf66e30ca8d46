"""VITA's duplex pair on real speech: tiny weights learn which utterance of a recording is meant for them.

a sentence in three pieces, quiet between -> one is answered; one that comes through a wall is ignored while that is
written; one interrupts it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import byte_tokenizer, write_config, writer
from polymodal.check.record import TrainingCheck
from polymodal.check.training import learned
from polymodal.data.encoded import Encoded
from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Processor
from polymodal.engine.engine import Engine
from polymodal.pipelines.utterances import RATE, Utterance, Utterances
from polymodal.systems import LanguageModeling, Linear
from polymodal.systems.vita import SYSTEM
from polymodal.systems.vita.duplex import Duplex, DuplexOptions, Moment
from polymodal.systems.vita.processing import NOISE, QUERY, STATES

SPECIALS = ("<unk>", "<s>", "</s>", *STATES)
RULES = "Answer."  # in place of the published system message, which is 500 bytes long
FIRST = "Mr. John Dashwood had then leisure to consider how much"
SECOND = "My heart is full."
PIECES = ((0.0, 1.9), (2.2, 4.1), (4.5, 6.4))  # seconds of the sentence
MUFFLED = 24  # samples that are averaged: little above 500 Hz is left


def stream() -> np.ndarray:
    """Pieces of the recorded sentence, a second of quiet behind each; the second as if said in another room."""
    samples = real.speech(RATE).numpy()
    quiet = np.zeros(RATE, np.float32)
    first, second, third = (samples[int(a * RATE) : int(b * RATE)] for a, b in PIECES)
    muffled = np.convolve(second, np.ones(MUFFLED, np.float32) / MUFFLED, mode="same")
    return np.concatenate((first, quiet, muffled.astype(np.float32), quiet, third, quiet))


def utterances(samples: np.ndarray) -> list[Utterance]:
    ears = Utterances()
    return [*ears.add(samples), *ears.finish()]


def talks(heard: Sequence[Utterance]) -> list[list[Message]]:
    """The first is answered by the sentence itself; the others come alone, or behind what there is of that answer."""
    first, noise, third = [Message(role="user", parts=(Audio((each.samples, RATE)),)) for each in heard]
    rules = Message(role="system", parts=(Text(RULES),))

    def said(words: str) -> Message:
        return Message(role="assistant", parts=(Text(words),))

    found = [[rules, first, said(QUERY + FIRST)]]
    begun: list[Message] = []
    for length in (0, *range(10, len(FIRST), 3)):
        if length:
            begun = [first, said(QUERY + FIRST[:length])]
        found += [[rules, *begun, noise, said(NOISE)], [rules, *begun, third, said(QUERY + SECOND)]]
    return found


def encoded(processor: Processor, talk: list[Message]) -> Encoded:
    """A talk as a row whose last answer alone is learned."""
    row, asked = processor.encode(talk), len(processor.encode(talk[:-1], generate=True))
    return replace(row, loss_mask=[False] * asked + list(row.loss_mask[asked:]))


def measured(encoder: Any, banks: torch.Tensor) -> None:
    """Means and deviations of the bins, as a release brings them along."""
    flat = banks.flatten(0, 1)
    flat = flat[flat.abs().sum(-1) > 0]
    encoder.mean.copy_(flat.mean(0))
    encoder.istd.copy_(1 / flat.std(0))


def trained(folder: Path, config: Any, steps: int = 120) -> Any:
    """A tiny model of `config(vocabulary size)` in a folder, after it learned the last answer of each talk."""
    torch.manual_seed(0)
    made = config(byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="<unk>"))
    write_config(folder, config=made)
    spec = SYSTEM.formats[0].model_spec(made)
    write = writer(folder, spec)
    write(spec.build())
    model = pm.load(folder)
    always, *others = (encoded(model.processor, talk) for talk in talks(utterances(stream())))
    module, random = model.module.train(), np.random.default_rng(0)
    measured(module.encoders["audio"], model.processor.collate([always, *others[:2]], padding="right")["audios"])
    weights = torch.ones(made["text_config"]["vocab_size"])
    weights[[model.processor.tokenizer.special(state) for state in STATES]] = 10.0  # one token of a whole answer

    def batches(step: int) -> dict[str, Any]:
        chosen = [others[i] for i in random.choice(len(others), 6, replace=False)]
        return {**model.processor.collate([always, *chosen], padding="right"), "token_weights": weights}

    lesson = TrainingCheck(model=module, batches=batches, steps=steps)
    write(learned(lesson, LanguageModeling(), schedule=Linear(final=0.05)))
    return pm.load(folder)


def listened(model: Any, samples: np.ndarray, steps: int = 2) -> list[Moment]:
    """What a pair of instances of one loaded model does with a stream of sound, in pieces as they come."""
    engines = [Engine(model.module, model.processor) for _ in range(2)]
    pair = Duplex(*engines, options=DuplexOptions(steps=steps, system=RULES))
    moments: list[Moment] = []
    for start in range(0, len(samples), 1000):
        moments += pair.hear(samples[start : start + 1000])
    return [*moments, *pair.finish()]
