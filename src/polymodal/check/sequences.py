"""Real samples of three modalities for methods on features, made of pictures and their names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import polymodal as pm
from polymodal.check import real
from polymodal.check.fixture import store
from polymodal.check.record import Tensors
from polymodal.check.training import LETTERS, letters, rows, table
from polymodal.checkpoints.record import ModelSpec

LENGTHS = {"text": 12, "audio": 20, "vision": 16}


def sequences(count: int) -> Tensors:
    """Unaligned sequences of three rates about real pictures, padded in front.

    text: letters of the name, one-hot.  vision: the picture in 16 tiles.  audio: brightness along 20 columns, a
    stand-in for sound, since the pictures make none.  score: how warm the picture is, in -3 .. 3.
    """
    pixels = real.pixels(32)[:count]
    names = [letters(name, 0)[-LENGTHS["text"] :] for name in real.captions(count)]
    text = torch.zeros(count, LENGTHS["text"], len(LETTERS))
    for row, name in enumerate(names):
        text[row, -len(name) :] = F.one_hot(torch.tensor(name), len(LETTERS)).float()
    vision = F.adaptive_avg_pool2d(pixels, (8, 8)).unfold(2, 2, 2).unfold(3, 2, 2)
    vision = vision.permute(0, 2, 3, 1, 4, 5).reshape(count, 16, 12)
    audio = F.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), (4, 20))[:, 0].transpose(1, 2)
    warm = pixels[:, 0].mean((1, 2)) - pixels[:, 2].mean((1, 2))
    score = (3 * (warm - warm.mean()) / warm.std()).clamp(-3, 3)
    return {"text": text, "audio": audio, "vision": vision, "score": score}


def ids_of(count: int) -> Tensors:
    """The names as ids of letters, behind a first token, padded at the end, with their mask."""
    names = [[2, *letters(name)][: LENGTHS["text"]] for name in real.captions(count)]
    return {"input_ids": table(names, 0), "attention_mask": table([[1] * len(name) for name in names], 0)}


def batches_of(data: Tensors, batch: int) -> Callable[[int], Tensors]:
    """step -> so many samples, all in turn, with `index`, each one's place."""

    def batches(step: int) -> Tensors:
        chosen = rows(step, batch, len(data["labels"]))
        return {**{name: value[chosen] for name, value in data.items()}, "index": torch.tensor(chosen)}

    return batches


def loaded(spec: ModelSpec, model: nn.Module, config: Mapping[str, Any]) -> Any:
    """The model as `pm.load` reads it from a folder in the published format."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        store(dict(spec.keys[0].inverse().apply(model.state_dict())), folder / "pytorch_model.bin", "")
        return pm.load(folder)
