"""FLAVA against transformers: the three encoders, their projections, the contrastive logits and the codec.

The pretraining heads are compared in tests/models/test_multimodal_encoder.py: one forward gives several logits.
"""

from __future__ import annotations

import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.alignment import MASKING, name_batch, pairs
from polymodal.check.demo import write_config, write_weights
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import learned
from polymodal.generators.dalle_codec import map_pixels
from polymodal.systems import Variant
from polymodal.systems.flava import SYSTEM
from polymodal.systems.flava.checkpoint import MODEL, PRETRAINING
from polymodal.train.alignment import PatchMasking

Settings = dict[str, Any] | None


def tiny(transformers: Any, image: Settings = None, text: Settings = None, joint: Settings = None, **more: Any) -> Any:
    """A FlavaConfig of test size; the pretraining heads need one width for all."""
    text = {"vocab_size": 50, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 44, "max_position_embeddings": 20, **(text or {})}  # fmt: skip
    image = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
             "image_size": 24, "patch_size": 8, "vocab_size": 30, **(image or {})}  # fmt: skip
    joint = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48,
             **(joint or {})}  # fmt: skip
    codec = {"hidden_size": 8, "vocab_size": 30}
    more = {"hidden_size": 36, "projection_dim": 20, "image_codebook_config": codec, **more}
    return transformers.FlavaConfig(image_config=image, text_config=text, multimodal_config=joint, **more)


def inputs(config: Any) -> Tensors:
    """Three pictures and texts of unequal length."""
    mask = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 4, 2)])
    ids = randomise.ids("words", (3, 7), 4, 50) * mask
    height, width = (
        (config.image_config.image_size,) * 2
        if isinstance(config.image_config.image_size, int)
        else (config.image_config.image_size)
    )
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": randomise.values("pixels", (3, 3, height, width))}


def projected(oracle: Any, given: Tensors) -> dict[str, Any]:
    """Every token in the joint space, and the joint embeddings."""
    text = {name: given[name] for name in ("input_ids", "attention_mask")}
    return {"image": library.features(oracle, "image", pixel_values=given["pixel_values"]),
            "text": library.features(oracle, "text", **text),
            "multimodal": library.field("multimodal_embeddings")(oracle, given)}  # fmt: skip


def size(variant: Variant) -> Size:
    assert variant.config is not None
    config = variant.config
    kind = (config.get("architectures") or ["FlavaImageCodebook"])[0]
    known = {name: value for name, value in config.items() if name != "model_type"}
    return hugging_size(
        variant.name,
        kind,
        lambda t: (t.FlavaImageCodebookConfig if kind == "FlavaImageCodebook" else t.FlavaConfig)(**known),
    )


def small() -> dict[str, Any]:
    """A config.json for training checks: 4 x 4 patches and image tokens."""
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return {"model_type": "flava", "architectures": [PRETRAINING], "hidden_size": 64, "projection_dim": 32,
            "image_config": {**shape, "image_size": 64, "patch_size": 16, "vocab_size": 64},
            "text_config": {**shape, "vocab_size": 32, "max_position_embeddings": 48}, "multimodal_config": shape,
            "image_codebook_config": {"hidden_size": 16, "vocab_size": 64}}  # fmt: skip


MASKED_PATCHES = PatchMasking(grid=(4, 4), count=6, smallest=2)


named_pictures = cache(partial(pairs, 64))  # count -> batches; the pictures are read once


def batches(step: int, count: int) -> Tensors:
    """Pairs with hidden letters and patches; a patch of 16 x 16 pixels is one image token of an 8 x 8 codec."""
    batch = named_pictures(count)(step)
    generator = torch.Generator().manual_seed(step)
    masked, labels = MASKING(batch["input_ids"], generator)
    patches = torch.stack([MASKED_PATCHES(generator).flatten() for _ in masked])
    codec = map_pixels(F.interpolate(batch["pixel_values"], size=(32, 32), mode="area") / 2 + 0.5)
    return {**batch, "input_ids_masked": masked, "mlm_labels": labels, "bool_masked_pos": patches,
            "codebook_pixel_values": codec}  # fmt: skip


PICTURES = ("pixel_values", "bool_masked_pos", "codebook_pixel_values")


def training_check(*, joint: bool, count: int = real.COUNT, steps: int = 40) -> TrainingCheck:
    """joint: pairs; else pictures alone and texts alone in turn."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small()).build()

    def alone(step: int) -> Tensors:
        batch = batches(step // 2, count)
        return {name: value for name, value in batch.items() if (name in PICTURES) == (step % 2 == 0)}

    made = (lambda step: batches(step, count)) if joint else alone
    return TrainingCheck(model=model, batches=made, steps=steps, lr=2e-3)


def headline() -> HeadlineResult:
    """One model, loaded from a published folder: pairs by contrast, masked words alone and with the picture."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_config(folder, config=small())
        model = learned(training_check(joint=True, count=8, steps=320), SYSTEM.recipe[1].objective)
        write_weights(folder, model, SYSTEM.formats[0].model_spec(small()).keys[0])
        loaded = pm.load(folder)
    texts, pixels = name_batch(list(range(8))), real.pixels(64)[:8]
    right = int((loaded.logits(**texts, pixel_values=pixels).argmax(1) == torch.arange(8)).sum())
    with torch.no_grad():
        true = loaded.module.predictions(**texts, pixel_values=pixels)["itm"].diff().flatten()
        false = loaded.module.predictions(**texts, pixel_values=pixels.roll(1, 0))["itm"].diff().flatten()
        alone = loaded.module.predictions(**texts)["mlm"].shape
    matched = int((true > false).sum())
    seen = f"{right} of 8 names found by contrast, {matched} of 8 judged to fit their picture better than another's"
    return HeadlineResult(
        ok=right >= 7 and matched >= 7,
        evidence=f"tiny weights trained on 8 pictures with all losses: {seen}, words alone give {list(alone)}",
    )


EVIDENCE = Evidence(
    oracle=f"transformers {MODEL}, {PRETRAINING}, FlavaImageCodebook",
    cases=(
        hugging_case("three encoders of different widths", MODEL,
                     lambda t: tiny(t, {"hidden_size": 32, "num_attention_heads": 4, "mask_token": False},
                                    {"hidden_act": "gelu_new", "qkv_bias": False},
                                    {"hidden_size": 40, "num_attention_heads": 5, "use_cls_token": False}),
                     inputs, reading=Reading(logits=None, features=projected)),
        hugging_case("one layer each, other patches, a picture that is not square", MODEL,
                     lambda t: tiny(t, {"num_hidden_layers": 1, "image_size": [24, 36], "patch_size": [8, 12]},
                                    {"num_hidden_layers": 1}, {"num_hidden_layers": 1}),
                     inputs, reading=Reading(logits=None, features=projected)),
        hugging_case("contrastive logits of the pretraining class", PRETRAINING, lambda t: tiny(t, return_loss=False),
                     inputs, reading=Reading(logits=library.field("contrastive_logits_per_image"))),
        hugging_case("pretraining class without codec", PRETRAINING,
                     lambda t: tiny(t, return_loss=False, init_codebook=False), inputs,
                     reading=Reading(logits=library.field("contrastive_logits_per_image"))),
        hugging_case("codec", "FlavaImageCodebook",
                     lambda t: t.FlavaImageCodebookConfig(hidden_size=8, vocab_size=30, num_blocks_per_group=3,
                                                          num_groups=2),
                     lambda config: {"pixel_values": randomise.values("pixels", (2, 3, 32, 48))},
                     reading=Reading(logits=lambda oracle, given: oracle(**given))),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"unimodal": lambda: training_check(joint=False), "joint": lambda: training_check(joint=True)},
    headline=headline,
    layouts={
        SYSTEM.formats[1].name: "a codec by itself turns pictures into the words that another model predicts; its "
        "words are compared in a case",
    },
)  # fmt: skip
