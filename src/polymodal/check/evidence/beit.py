"""BEiT against transformers, in its three classes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import Checkpoint, write_config, write_weights
from polymodal.check.encoder_checks import BARE, COUNT, classes_headline, classification_check, classification_headline
from polymodal.check.fixture import fixture_case
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import learned, rows
from polymodal.systems import Classification, Variant
from polymodal.systems.beit import SYSTEM

SMALL = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "image_size": 21,
         "patch_size": 5, "vocab_size": 30}  # fmt: skip
MASKED = "BeitForMaskedImageModeling"


def case(name: str, model: str = "BeitForImageClassification", larger: bool = False, **changes: Any) -> Case:
    def config(transformers: Any) -> Any:
        return transformers.BeitConfig(**{**SMALL, **changes})

    def inputs(settings: Any) -> Tensors:
        size = settings.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if larger:
            height, width = height + 2 * settings.patch_size, width + settings.patch_size
        given: Tensors = {"pixel_values": randomise.values("pixels", (3, settings.num_channels, height, width))}
        if settings.use_mask_token:
            given["bool_masked_pos"] = (torch.arange(48) % 3 == 0).reshape(3, 16)
        return given

    def features(oracle: Any, given: Tensors) -> dict[str, Any]:
        encoder = oracle if model == "BeitModel" else library.part(oracle, "beit")
        return {"image": library.states(encoder(**given))}

    reading = Reading(logits=None if model == "BeitModel" else library.logits, features=features)
    return hugging_case(name, model, config, inputs, reading=reading)


def size(variant: Variant) -> Size:
    settings = dict(variant.config or {})
    return hugging_size(variant.name, settings["architectures"][0], lambda t: t.BeitConfig(**settings))


TINY = {"model_type": "beit", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "image_size": 32, "patch_size": 8, "vocab_size": 8}  # fmt: skip


def tiny(labels: list[str]) -> dict[str, Any]:
    return {**TINY, "architectures": ["BeitForImageClassification"], "use_relative_position_bias": True,
            "id2label": {str(i): label for i, label in enumerate(labels)}}  # fmt: skip


MASKING = {**TINY, "use_mask_token": True, "use_shared_relative_position_bias": True}


def masked() -> TrainingCheck:
    """Eight visual words, the brightness of a patch in eighths, at masked patches of real pictures."""
    torch.manual_seed(0)
    config = {**MASKING, "architectures": [MASKED]}
    pixels = real.pixels(32)
    shade = torch.nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), 8).flatten(1)
    words = ((shade + 1) * 4).long().clamp(0, 7)

    def batches(step: int) -> Tensors:
        chosen = rows(step, 16)
        hidden = (torch.arange(16) + step) % 5 < 2
        return {"pixel_values": pixels[chosen], "bool_masked_pos": hidden.expand(16, -1), "labels": words[chosen]}

    return TrainingCheck(model=SYSTEM.formats[1].model_spec(config).build(), batches=batches, steps=40)


def classes() -> TrainingCheck:
    """Real pictures, each a class of its own."""
    torch.manual_seed(0)
    return classification_check(SYSTEM.formats[0].model_spec(tiny(real.captions(COUNT))).build(), 32)


def headline() -> HeadlineResult:
    """A tiny BEiT is trained on eight real pictures, saved as the hub's files are, loaded and asked for classes."""
    with tempfile.TemporaryDirectory() as directory:
        folder, config = Path(directory), tiny(real.captions(COUNT))
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_config(folder, config=config, preprocessor_config={"size": 32})
        write_weights(folder, learned(classes(), Classification(), steps=60), model_spec.keys[0])
        return classification_headline(pm.load(folder).classify)


def masked_headline() -> HeadlineResult:
    """A tiny BEiT learns the words of masked patches of 16 pictures; loaded, it is asked for them by `logits`."""
    training, objective = masked(), SYSTEM.recipe[0].objective
    shown = training.batches(0)
    labels, hidden = shown.pop("labels"), shown["bool_masked_pos"]
    written = {**MASKING, "architectures": [MASKED]}
    checkpoint = Checkpoint(format=SYSTEM.formats[1], config=written, file="model.safetensors", written=written)

    def trained(module: nn.Module) -> nn.Module:
        # Each sixth batch has the first 16 pictures, masked elsewhere each time.
        lesson = replace(training, model=module, batches=lambda step: training.batches(6 * step))
        return learned(lesson, objective, steps=400)

    with tempfile.TemporaryDirectory() as directory:
        said = checkpoint.stored(Path(directory), trained).logits(**shown).argmax(-1)
    right = float((said == labels)[hidden].float().mean())
    chance = float(labels[hidden].bincount().max()) / int(hidden.sum())
    told = f"{right:.0%} of the words of masked patches are right, the commonest would be in {chance:.0%}"
    return HeadlineResult(ok=right > 2 * chance, evidence=told)


OFFICIAL = {**TINY, "head": "patches", "num_labels": COUNT, "layer_norm_eps": 1e-6, "use_mean_pooling": True,
            "use_relative_position_bias": True, "use_absolute_position_embeddings": False,
            "use_shared_relative_position_bias": False, "use_mask_token": False, "num_channels": 3}  # fmt: skip

EVIDENCE = Evidence(
    oracle="transformers BeitForMaskedImageModeling, BeitForImageClassification, BeitModel; microsoft/unilm beit",
    cases=(
        case("masked model, one table for all blocks", MASKED, use_mask_token=True, use_mean_pooling=False,
             use_shared_relative_position_bias=True),
        case("masked model, mean pooling, a table a block", MASKED, use_mask_token=True,
             use_relative_position_bias=True, layer_norm_eps=1e-3),
        case("classifier, a table a block", use_relative_position_bias=True, num_labels=5),
        case("classifier, larger pictures", larger=True, use_relative_position_bias=True,
             use_absolute_position_embeddings=True),
        case("classifier on the class token, both kinds of table, no layer scale", use_relative_position_bias=True,
             use_shared_relative_position_bias=True, use_mean_pooling=False, layer_scale_init_value=0.0),
        case("one layer, two channels, other activation, no tables", num_hidden_layers=1, num_channels=2,
             hidden_act="relu", num_labels=0),
        fixture_case("official masked model", "beit_masked"),
        fixture_case("official classifier, mean of the patches", "beit_patches"),
        fixture_case("official classifier, class token, positions of both kinds", "beit_class"),
        case("encoder, rectangle", "BeitModel", image_size=(15, 25), use_relative_position_bias=True),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"masked-pictures": masked, "fine-tune": classes},
    headline=headline,
    layouts={
        SYSTEM.formats[1].name: masked_headline,
        SYSTEM.formats[2].name: BARE,
        SYSTEM.formats[3].name: lambda: classes_headline(
            Checkpoint(format=SYSTEM.formats[3], config=OFFICIAL, file="beit.pth"), 32
        ),
    },
)  # fmt: skip
