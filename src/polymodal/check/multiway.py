"""Training checks of stacks that read pictures, words or both, at tiny size: real pictures and their names in bytes.

<s> bytes of the name </s> -> input_ids;  every patch -> the nearest of eight plain colours, a stand-in for the codes of
a visual tokenizer
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.record import TrainingCheck
from polymodal.check.regions import COLOURS
from polymodal.check.training import rows
from polymodal.checkpoints.record import CheckpointFiles, ModelSpec
from polymodal.train.alignment import PatchMasking, WordMasking

BOS, PAD, EOS, MASK, VOCABULARY = 0, 1, 2, 3, 260
SIDE, PATCH = 64, 16
QUESTION = "what is it?"
Batches = Callable[[int], dict[str, Any]]


def write_bytes(folder: Path) -> None:
    """A vocabulary of bytes behind the four special tokens."""
    byte_tokenizer(folder, ["<s>", "<pad>", "</s>", "<mask>"], bos="<s>", eos="</s>", pad="<pad>")


def processor(spec: ModelSpec, module: nn.Module) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        write_bytes(Path(directory))
        assert spec.assemble is not None
        return spec.assemble(module, CheckpointFiles(Path(directory))).processor


def pairs(spec: ModelSpec, module: nn.Module, count: int = 24, batch: int = 8, text: str | None = None) -> Batches:
    """step -> pictures and their names (or one text), through the model's own processor."""
    shown = real.pictures()[:count]
    whole = processor(spec, module)(images=[p for p, _ in shown], text=[text or name for _, name in shown])

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, batch, count)
        return {name: value[chosen] for name, value in whole.items()}

    return batches


def hidden_words(made: Batches, share: float, ids: str = "masked_input_ids") -> Batches:
    """The same with a share of the words hidden."""
    masking = WordMasking(mask=MASK, vocabulary=VOCABULARY, exempt=(BOS, PAD), probability=share)

    def batches(step: int) -> dict[str, Any]:
        batch = made(step)
        masked, labels = masking(batch["input_ids"], torch.Generator().manual_seed(step))
        return {**batch, ids: masked, "labels": labels}

    return batches


def hidden_patches(made: Batches) -> Batches:
    """The same with two fifths of the patches hidden, and their colours to be named."""
    side = SIDE // PATCH
    masking = PatchMasking(grid=(side, side), count=6, smallest=2)

    def batches(step: int) -> dict[str, Any]:
        batch, draw = made(step), torch.Generator().manual_seed(step)
        hidden = torch.stack([masking(draw).flatten() for _ in batch["pixel_values"]])
        return {**batch, "bool_masked_pos": hidden, "image_labels": colours(batch["pixel_values"])}

    return batches


def colours(pixels: Tensor) -> Tensor:
    """Pictures -> the plain colour nearest to each patch, int64 [N, P]."""
    mean = F.avg_pool2d(pixels, PATCH).flatten(2).transpose(1, 2) / 2 + 0.5
    return torch.cdist(mean, COLOURS).argmin(-1)


def kinds_in_turn(made: Batches) -> Batches:
    """Pairs, pictures and texts in turn."""
    texts = ("input_ids", "attention_mask", "masked_input_ids", "labels")

    def batches(step: int) -> dict[str, Any]:
        batch = made(step)
        if step % 3 == 1:
            return {name: value for name, value in batch.items() if name not in texts}
        return batch if step % 3 == 0 else {name: value for name, value in batch.items() if name in texts}

    return batches


def masked_check(spec: ModelSpec) -> TrainingCheck:
    """Pairs, pictures and texts in turn, with letters and patches hidden."""
    torch.manual_seed(0)
    module = spec.build()
    batches = hidden_patches(hidden_words(pairs(spec, module), 0.5))
    return TrainingCheck(model=module, batches=kinds_in_turn(batches), steps=60, lr=2e-3)


def contrast_check(spec: ModelSpec) -> TrainingCheck:
    """Pictures and their names, apart."""
    torch.manual_seed(0)
    module = spec.build()
    return TrainingCheck(model=module, batches=pairs(spec, module, 8), steps=60, lr=2e-3)


def stored(folder: Path, config: Mapping[str, Any], spec: ModelSpec, module: nn.Module, answers: Sequence[str]) -> Any:
    """A folder of a trained module, as `pm.load` gives it."""
    write_config(folder, config=config)
    write_bytes(folder)
    if answers:
        (folder / "answers.json").write_text(json.dumps(list(answers)), encoding="utf-8")
    write_weights(folder, module, spec.keys[0])
    return pm.load(folder)
