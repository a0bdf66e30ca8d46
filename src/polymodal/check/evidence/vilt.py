"""ViLT against transformers: pictures of unequal size, padded texts, all its heads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.alignment import CLS, FIRST, SEP, pairs, with_masked_words
from polymodal.check.demo import write_config, write_weights
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import learned, rows
from polymodal.systems import Classification, Variant
from polymodal.systems.vilt import SYSTEM
from polymodal.systems.vilt.checkpoint import ANSWERS, MASKED, PICTURES, RANK, TOKENS

HEIGHT, WIDTH = 24, 32


def tiny(transformers: Any, **more: Any) -> Any:
    """A ViltConfig of test size."""
    small = {"vocab_size": 50, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 24,
             "intermediate_size": 44, "patch_size": 8, "max_position_embeddings": 20}  # fmt: skip
    return transformers.ViltConfig(**{**small, **more})


def pixel_mask() -> torch.Tensor:
    """One whole picture, one that is shorter, one that is narrower."""
    mask = torch.ones(3, HEIGHT, WIDTH, dtype=torch.long)
    mask[1, 16:] = 0
    mask[2, :, 16:] = 0
    return mask


def inputs(config: Any) -> Tensors:
    """Three texts of unequal length with a picture each, as its processor pads them."""
    words = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 4, 2)])
    mask = pixel_mask()
    pixels = randomise.values("pixels", (3, 3, HEIGHT, WIDTH)) * mask[:, None]
    ids = randomise.ids("words", (3, 7), 4, 50) * words
    return {"input_ids": ids, "attention_mask": words, "token_type_ids": torch.zeros_like(ids),
            "pixel_values": pixels, "pixel_mask": mask}  # fmt: skip


def several(config: Any) -> Tensors:
    """The same texts with as many pictures each as the config says."""
    given, count = inputs(config), config.num_images
    mask = torch.stack([pixel_mask().roll(i, 0) for i in range(count)], 1)
    pixels = randomise.values("pictures", (3, count, 3, HEIGHT, WIDTH)) * mask[:, :, None]
    return {**given, "pixel_values": pixels, "pixel_mask": mask}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row by itself, text and picture without padding."""
    rows = []
    for row, (height, width) in enumerate(((24, 32), (16, 32), (24, 16))):
        real = given["attention_mask"][row].bool()
        pixels = given["pixel_values"][row : row + 1, ..., :height, :width]
        mask = torch.ones(1, height, width, dtype=torch.long)
        ids = given["input_ids"][row][real][None]
        rows.append((row, {"input_ids": ids, "pixel_values": pixels, "pixel_mask": mask}))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    """The text side of what enters the blocks; its image side comes in a random order."""
    text = library.part(oracle, "vilt.embeddings.text_embeddings")
    kinds = library.part(oracle, "vilt.embeddings.token_type_embeddings")
    return {"text": text(given["input_ids"], given.get("token_type_ids")) + kinds.weight[0]}


def case(name: str, model: str, **more: Any) -> Case:
    return hugging_case(name, model, lambda t: tiny(t, **more), inputs, alone=alone, reading=Reading(features=features))


def size(variant: Variant) -> Size:
    assert variant.config is not None
    config = variant.config
    head = "" if config.get("tie_word_embeddings", True) else "mlm_score.decoder"
    return hugging_size(variant.name, config["architectures"][0], lambda t: t.ViltConfig(**config), head)


def small(model: str, **more: Any) -> dict[str, Any]:
    """A config.json for training checks: 16 patches a picture of 64 x 64."""
    return {"model_type": "vilt", "architectures": [model], "vocab_size": 32, "hidden_size": 64, "image_size": 64,
            "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "patch_size": 16,
            **more}  # fmt: skip


def pretrain() -> TrainingCheck:
    """Masked letters of the names, with the pictures; whole names with their own or another picture."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(MASKED)).build()
    return TrainingCheck(model=model, batches=with_masked_words(pairs(64)), steps=60, lr=2e-3)


def answers() -> TrainingCheck:
    """Which of eight pictures it is, by binary cross-entropy over the answers, times their number."""
    torch.manual_seed(0)
    pixels = real.pixels(64)

    def batches(step: int) -> Tensors:
        chosen = rows(step, 8, 8)
        return {**asked(8), "pixel_values": pixels[chosen], "labels": F.one_hot(torch.tensor(chosen), 8).float()}

    model = SYSTEM.formats[0].model_spec(small(ANSWERS, num_labels=8)).build()
    return TrainingCheck(model=model, batches=batches, steps=40, lr=1e-3)


def asked(count: int) -> Tensors:
    """One question of one letter, for each row."""
    ids = torch.tensor([[CLS, FIRST, SEP]]).expand(count, -1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def headline() -> HeadlineResult:
    """Eight real pictures answered through linear patches alone, from a published folder."""
    training_check = answers()
    model_spec = SYSTEM.formats[0].model_spec(small(ANSWERS, num_labels=8))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_config(folder, config=small(ANSWERS, num_labels=8))
        write_weights(folder, learned(training_check, Classification()), model_spec.keys[0])
        found = pm.load(folder).logits(**asked(8), pixel_values=real.pixels(64)[:8])
    right = int((found.argmax(1) == torch.arange(8)).sum())
    return HeadlineResult(
        ok=right >= 7,
        evidence=f"tiny weights trained on 8 pictures, patches embedded by one linear: {right} of 8 answered",
    )


EVIDENCE = Evidence(
    oracle=f"transformers {ANSWERS}, {MASKED}, {RANK}, {PICTURES}",
    cases=(
        case("answers, pictures of unequal size", ANSWERS, num_labels=11),
        case("answers, one layer, no bias, tanh gelu", ANSWERS, num_labels=3, num_hidden_layers=1, qkv_bias=False,
             hidden_act="gelu_new", patch_size=4, hidden_size=40, num_attention_heads=5),
        case("masked words", MASKED),
        case("rank", RANK, layer_norm_eps=1e-6, type_vocab_size=3),
        case("a class for each word", TOKENS, num_labels=4),
        hugging_case("two pictures a text", PICTURES, lambda t: tiny(t, num_images=2, modality_type_vocab_size=3),
                     several),
        hugging_case("three pictures a text", PICTURES,
                     lambda t: tiny(t, num_images=3, modality_type_vocab_size=4, num_labels=5), several),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"pretrain": pretrain, "vqa": answers},
    headline=headline,
)  # fmt: skip
