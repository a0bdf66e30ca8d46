"""BEiT-3 against its official code on torchscale, run outside the project (check/fixtures/beit_3_*.safetensors)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import polymodal as pm
from polymodal.check import multiway, real
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import learned, rows
from polymodal.systems import Classification, Contrastive
from polymodal.systems.beit_3 import SYSTEM
from polymodal.systems.beit_3.checkpoint import ANSWERS, CAPTIONS, RETRIEVAL


def case(name: str, fixture: str, **more: Any) -> Case:
    """A fixture, whose rows are also given alone, texts without padding."""
    _, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    alone = []
    for row, mask in enumerate(given["attention_mask"].bool()):
        one = {key: value[row : row + 1] for key, value in given.items() if key != "attention_mask"}
        alone.append((row, {**one, "input_ids": one["input_ids"][:, mask]}))
    return fixture_case(name, fixture, **({"alone": alone} | more))


def small(kind: str, **more: Any) -> dict[str, Any]:
    """A config of test size: 4 x 4 patches."""
    return {"model_type": "beit3", "kind": kind, "img_size": multiway.SIDE, "patch_size": multiway.PATCH,
            "encoder_embed_dim": 48, "encoder_attention_heads": 4, "encoder_layers": 3, "encoder_ffn_embed_dim": 96,
            "max_source_positions": 40, "vocab_size": multiway.VOCABULARY, "mask_token_id": multiway.MASK,
            **more}  # fmt: skip


def spec(config: dict[str, Any]) -> Any:
    return SYSTEM.formats[0].model_spec(config)


def pretrain() -> TrainingCheck:
    return multiway.masked_check(spec(small(CAPTIONS)))


def contrast() -> TrainingCheck:
    return multiway.contrast_check(spec(small(RETRIEVAL)))


def vqa() -> TrainingCheck:
    """Which of eight pictures it is, asked in words."""
    torch.manual_seed(0)
    made = spec(small(ANSWERS, num_labels=8))
    module = made.build()
    asked = multiway.pairs(made, module, 8, text=multiway.QUESTION)

    def batches(step: int) -> dict[str, Any]:
        return {**asked(step), "labels": F.one_hot(torch.tensor(rows(step, 8, 8)), 8).float()}

    return TrainingCheck(model=module, batches=batches, steps=60, lr=2e-3)


def captioning() -> TrainingCheck:
    """Hidden letters of names, each seeing the picture and the letters before it."""
    torch.manual_seed(0)
    made = spec(small(CAPTIONS))
    module = made.build()
    batches = multiway.hidden_words(multiway.pairs(made, module, 8), 0.7, "input_ids")
    return TrainingCheck(model=module, batches=batches, steps=60, lr=2e-3)


def headline() -> HeadlineResult:
    """Eight real pictures: asked about, matched with their names, and captioned, by one stack each from a folder."""
    shown = real.pictures()[:8]
    names = [name for _, name in shown]
    right = {}
    with tempfile.TemporaryDirectory() as directory:
        for kind, check, objective, more in (
            (ANSWERS, vqa, Classification(), {"num_labels": 8}),
            (RETRIEVAL, contrast, Contrastive(), {}),
            (CAPTIONS, captioning, Classification(), {}),
        ):
            folder = Path(directory) / kind
            folder.mkdir()
            config = small(kind, **more)
            module = learned(check(), objective, steps=300)
            model = multiway.stored(folder, config, spec(config), module, names if kind == ANSWERS else ())
            right[kind] = sum(named(model, kind, picture, names) == name for picture, name in shown)
    said = ", ".join(f"{count} of 8 {kind}" for kind, count in right.items())
    return HeadlineResult(
        ok=min(right.values()) >= 6,
        evidence=f"tiny weights trained on 8 pictures, one stack as fusion encoder, dual encoder and captioner: {said}",
    )


def named(model: Any, kind: str, picture: Any, names: list[str]) -> str:
    """What the model calls a picture, by the command of its kind."""
    if kind == ANSWERS:
        return str(model.answer(pm.image(picture), multiway.QUESTION, top=1)[0].label)
    if kind == RETRIEVAL:
        return str(model.classify(pm.image(picture), names)[0].label)
    ids = model.generate(**model.processor(images=picture), max_new_tokens=30)
    return str(model.processor.tokenizer.decode([int(i) for i in ids[0, 1:] if int(i) > multiway.MASK]))


_, CAPTIONED = read("beit_3_captions")
EVIDENCE = Evidence(
    oracle=fixture_source("beit_3_answers"),
    cases=(
        case("answers, texts of unequal length", "beit_3_answers"),
        case("two pictures a text, one block", "beit_3_pairs"),
        fixture_case("classes of pictures", "beit_3_classes"),
        fixture_case("retrieval: pictures and texts apart", "beit_3_retrieval"),
        case("captions: words that see those before them, 16 greedy ids by the official cache", "beit_3_captions",
             prompt={"pixel_values": CAPTIONED["in.pixel_values"]}),
    ),
    published=tuple(packed_size("beit_3_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"pretrain": pretrain, "contrast": contrast, "vqa": vqa, "captioning": captioning,
                     "retrieval": contrast},
    headline=headline,
    exceptions=(
        "files of pretraining are not read: no published code names their heads of words and patches",
        "captions are written without a cache of states, which changes no number; the giant model was not released",
    ),
)  # fmt: skip
