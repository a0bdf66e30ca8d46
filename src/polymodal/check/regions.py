"""Training checks and headlines of models that read a detector's regions, at tiny size: real pictures and their names.

picture -> 4 x 4 cells, each a region of 12 numbers (its colours in four quarters): a stand-in for Faster R-CNN
name -> word pieces of single letters -> [CLS] ... [SEP]
what a detector would say of a region -> how near its colour is to eight plain colours, as probabilities
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import write_config, write_weights
from polymodal.check.fixture import fixture_case, read
from polymodal.check.record import Case, HeadlineResult, TrainingCheck
from polymodal.check.training import learned, rows
from polymodal.checkpoints.record import CheckpointFiles, ModelSpec
from polymodal.models.region_text import RegionText
from polymodal.pipelines.region_detectors import GridDetector
from polymodal.systems import Classification
from polymodal.train.alignment import WordMasking
from polymodal.train.objectives import Objective

CELLS, FEATURES = 4, 12
COLOURS = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz?"
PIECES = (*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS))
VOCABULARY = len(PIECES)
QUESTION = "what is it?"
Batches = Callable[[int], dict[str, Any]]


def picture_cells(picture: Any) -> Tensor:
    """A Pillow picture -> the colours of its cells [16, 12], -1 .. 1."""
    side = 2 * CELLS
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB").resize((side, side)), np.float32)) / 127.5 - 1
    return pixels.reshape(CELLS, 2, CELLS, 2, 3).permute(0, 2, 1, 3, 4).reshape(CELLS * CELLS, FEATURES)


DETECTOR = GridDetector(features=picture_cells, rows=CELLS, columns=CELLS)


def colour_classes(features: Tensor) -> Tensor:
    """Cells [..., 12] -> how near each is to eight colours, probabilities [..., 8]."""
    mean = features.unflatten(-1, (4, 3)).mean(-2) / 2 + 0.5
    return (-8 * (mean[..., None, :] - COLOURS).square().sum(-1)).softmax(-1)


def paired_case(name: str, fixture: str) -> Case:
    """A fixture, whose rows are also given alone, text and regions without padding."""
    _, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    alone = []
    for row in range(len(given["input_ids"])):
        words, seen = given["attention_mask"][row].bool(), given["visual_attention_mask"][row].bool()
        texts = [key for key in given if key in ("input_ids", "token_type_ids")]
        one = {key: given[key][row][words][None] for key in texts}
        one |= {key: given[key][row][seen][None] for key in ("visual_feats", "visual_pos")}
        alone.append((row, one))
    return fixture_case(name, fixture, alone=alone)


def write_pieces(folder: Path) -> None:
    """The vocabulary of single letters as BERT's tokenizer keeps it."""
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    write_config(folder, tokenizer_config={"tokenizer_class": "BertTokenizer"})


def assembled(module: nn.Module, spec: ModelSpec) -> Any:
    """The LoadedModel of a fresh module, with letters as word pieces and the grid as its detector."""
    with tempfile.TemporaryDirectory() as directory:
        write_pieces(Path(directory))
        assert spec.assemble is not None
        parts = spec.assemble(module, CheckpointFiles(Path(directory)))
    parts.processor.detector = DETECTOR
    return parts


def named_regions(processor: Any, count: int = real.COUNT, batch: int = 8) -> Batches:
    """step -> pictures and their names through the model's own processor."""
    shown = [(pm.image(picture), name) for picture, name in real.pictures()[:count]]
    whole = processor.batch([item for item, _ in shown], [name for _, name in shown])

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, batch, count)
        return {name: value[chosen] for name, value in whole.items()}

    return batches


def hidden_and_replaced(made: Batches, classes: bool = True) -> Batches:
    """The same with letters and regions hidden, every second name another picture's, and what is asked of them."""
    masking = WordMasking(mask=SPECIALS.index("[MASK]"), vocabulary=VOCABULARY, exempt=range(len(SPECIALS)))

    def batches(step: int) -> dict[str, Any]:
        batch, draw = made(step), torch.Generator().manual_seed(step)
        count = len(batch["input_ids"])
        own = torch.arange(count) % 2 == 0
        partner = torch.where(own, torch.arange(count), (torch.arange(count) + 2) % count)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            batch[name] = batch[name][partner]
        batch["masked_input_ids"], batch["labels"] = masking(batch["input_ids"], draw)
        real_regions = batch["visual_attention_mask"].bool()
        batch["masked_regions"] = (torch.rand(real_regions.shape, generator=draw) < 0.25) & real_regions
        batch["matched"] = own.long()
        if classes:
            batch["region_classes"] = colour_classes(batch["visual_feats"])
        return batch

    return batches


def pretraining(spec: ModelSpec, more: Callable[[Batches], Batches] = hidden_and_replaced) -> TrainingCheck:
    """Names and regions, with what `more` hides and asks."""
    torch.manual_seed(0)
    module = spec.build()
    return TrainingCheck(model=module, batches=more(named_regions(assembled(module, spec).processor)), steps=60,
                         lr=2e-3)  # fmt: skip


def answering(spec: ModelSpec, count: int = 8) -> TrainingCheck:
    """Which of eight pictures it is, asked in words, by binary cross-entropy over the answers."""
    torch.manual_seed(0)
    module = spec.build()
    shown = [pm.image(picture) for picture, _ in real.pictures()[:count]]
    whole = assembled(module, spec).processor.batch(shown, [QUESTION] * count)

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, count, count)
        labels = F.one_hot(torch.tensor(chosen), count).float()
        return {**{name: value[chosen] for name, value in whole.items()}, "labels": labels}

    return TrainingCheck(model=module, batches=batches, steps=60, lr=2e-3)


def stored(folder: Path, config: Mapping[str, Any], spec: ModelSpec, module: nn.Module, answers: Sequence[str]) -> Any:
    """A published folder of a trained module, as `pm.load` gives it, with the grid as its detector."""
    write_config(folder, config=config)
    write_pieces(folder)
    if answers:
        (folder / "answers.json").write_text(str(list(answers)).replace("'", '"'), encoding="utf-8")
    write_weights(folder, module, spec.keys[0])
    model = pm.load(folder)
    model.processor.detector = DETECTOR
    return model


def answered_headline(spec: ModelSpec, config: Mapping[str, Any], what: str) -> HeadlineResult:
    """Eight real pictures asked about by `model.answer`, from a published folder."""
    module = learned(answering(spec), Classification(), steps=120)
    names = [name for _, name in real.pictures()[:8]]
    with tempfile.TemporaryDirectory() as directory:
        model = stored(Path(directory), config, spec, module, names)
        said = [model.answer(QUESTION, pm.image(picture), top=1)[0].label for picture, _ in real.pictures()[:8]]
    right = sum(one == name for one, name in zip(said, names, strict=True))
    return HeadlineResult(
        ok=right >= 7,
        evidence=f"tiny weights trained on 8 pictures, whose cells stand in for a detector's regions; {what}: "
        f"{right} of 8 answered by name",
    )


def matched_headline(spec: ModelSpec, config: Mapping[str, Any], objective: Objective, what: str) -> HeadlineResult:
    """The name of each of eight real pictures found by `model.classify`, from a published folder."""
    assert isinstance(spec.build(), RegionText)
    check = pretraining(spec, lambda made: replaced(named_regions_of(spec)))
    module = learned(replace(check, lr=5e-4), objective, steps=500)
    names = [name for _, name in real.pictures()[:8]]
    with tempfile.TemporaryDirectory() as directory:
        model = stored(Path(directory), config, spec, module, ())
        found = [model.classify(pm.image(picture), names)[0].label for picture, _ in real.pictures()[:8]]
    right = sum(one == name for one, name in zip(found, names, strict=True))
    return HeadlineResult(
        ok=right >= 6,
        evidence=f"tiny weights trained on 8 pictures, whose cells stand in for a detector's regions; {what}: the "
        f"right name first for {right} of 8 (chance 1)",
    )


def named_regions_of(spec: ModelSpec) -> Batches:
    """Of the first eight pictures, every one with its own name and with another's."""
    return named_regions(assembled(spec.build(), spec).processor, count=8)


def replaced(made: Batches) -> Batches:
    """Each picture twice: with its own name, and with another of the batch."""

    def batches(step: int) -> dict[str, Any]:
        batch = made(step)
        count = len(batch["input_ids"])
        twice = torch.arange(2 * count) % count
        other = (torch.arange(count) + 1 + step % (count - 1)) % count
        partner = torch.cat((torch.arange(count), other))
        texts = ("input_ids", "attention_mask", "token_type_ids")
        found = {name: value[partner if name in texts else twice] for name, value in batch.items()}
        return {**found, "matched": (torch.arange(2 * count) < count).long()}

    return batches
