"""BEiT v2 against its official code, run outside the project (check/fixtures/beit_v2_*.safetensors)."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.check import real
from polymodal.check.demo import Checkpoint
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import learned, rows
from polymodal.systems.beit_v2 import SYSTEM
from polymodal.systems.beit_v2.checkpoint import MASKED, TOKENIZER
from polymodal.train.alignment import PatchMasking

SIDE, PATCH, CODES = 64, 8, 32
GRID = SIDE // PATCH


def masked() -> dict[str, Any]:
    """A config of test size."""
    return {"model_type": MASKED, "hidden_size": 64, "num_channels": 3, "patch_size": PATCH, "image_size": SIDE,
            "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": CODES,
            "early_layers": 2, "head_layers": 1}  # fmt: skip


def tokenizer() -> dict[str, Any]:
    return {"model_type": TOKENIZER, "hidden_size": 64, "num_channels": 3, "patch_size": PATCH, "image_size": SIDE,
            "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 128, "codes": CODES,
            "code_width": 8, "decoder_hidden_size": 64, "decoder_layers": 1, "decoder_heads": 1, "outputs": 18,
            "decoder_intermediate_size": 128}  # fmt: skip


def build(config: dict[str, Any], format: int) -> Any:
    return SYSTEM.formats[format].model_spec(config).build()


def teacher(pixels: Tensor) -> Tensor:
    """What is measured of each patch, [N, P, 18], in place of CLIP's features: the colours of it and of the patches
    around it, without their mean over the picture."""
    mean = F.avg_pool2d(pixels, PATCH)
    around = F.unfold(F.pad(mean, (1, 1, 1, 1), mode="replicate"), 3).unflatten(1, (3, 9))
    near = torch.cat((around[:, :, 4:5], around[:, :, 1:9:2], around.mean(2, keepdim=True)), 2).flatten(1, 2)
    return (near - near.mean(2, keepdim=True)).transpose(1, 2)


def distil() -> TrainingCheck:
    """Codes from which what is measured of patches can be read."""
    torch.manual_seed(0)
    pixels = real.pixels(SIDE)
    wanted = teacher(pixels)

    def batches(step: int) -> Tensors:
        chosen = rows(step, 16)
        return {"pixel_values": pixels[chosen], "teacher_features": wanted[chosen]}

    return TrainingCheck(model=build(tokenizer(), 1), batches=batches, steps=60, lr=2e-3)


@cache
def codes() -> Tensor:
    """The codes of all patches, by a tokenizer that was trained, written as an official file and loaded."""
    checkpoint = Checkpoint(format=SYSTEM.formats[1], config=tokenizer(), file="vqkd.pth")
    check = distil()
    with tempfile.TemporaryDirectory() as directory:
        model = checkpoint.stored(Path(directory), lambda module: learned(check, SYSTEM.recipe[0].objective, steps=200))
        return torch.as_tensor(model.predict(pixel_values=real.pixels(SIDE))["tokens"]).clone()


def name_patches() -> TrainingCheck:
    """Codes of hidden patches, by both branches."""
    torch.manual_seed(0)
    pixels, wanted = real.pixels(SIDE), codes()
    masking = PatchMasking(grid=(GRID, GRID), count=26, smallest=4)

    def batches(step: int) -> Tensors:
        chosen, draw = rows(step, 16), torch.Generator().manual_seed(step)
        hidden = torch.stack([masking(draw).flatten() for _ in chosen])
        return {"pixel_values": pixels[chosen], "bool_masked_pos": hidden, "labels": wanted[chosen]}

    return TrainingCheck(model=build(masked(), 0), batches=batches, steps=60, lr=2e-3)


def headline() -> HeadlineResult:
    """Hidden patches of real pictures named by the codes of a tokenizer that was distilled before."""
    check = name_patches()
    checkpoint = Checkpoint(format=SYSTEM.formats[0], config=masked(), file="beitv2.pth")
    with tempfile.TemporaryDirectory() as directory:
        model = checkpoint.stored(Path(directory), lambda module: learned(check, SYSTEM.recipe[1].objective, steps=300))
        batch = check.batches(0)
        found = model.logits(pixel_values=batch["pixel_values"], bool_masked_pos=batch["bool_masked_pos"]).argmax(-1)
    hidden, wanted = batch["bool_masked_pos"], batch["labels"]
    right = float((found == wanted)[hidden].float().mean())
    plain = float(torch.bincount(codes().flatten()).max()) / codes().numel()
    used = len(codes().unique())
    return HeadlineResult(
        ok=right > plain + 0.1 and used > CODES // 4,
        evidence=f"tiny weights: a tokenizer distilled from measured colours uses {used} of {CODES} codes, and "
        f"{100 * right:.0f} % of hidden patches of real pictures get the right one (commonest: {100 * plain:.0f} %)",
    )


def tokens() -> HeadlineResult:
    used = len(codes().unique())
    return HeadlineResult(
        ok=used > CODES // 4, evidence=f"written as an official file and loaded: {used} codes are used"
    )


STORED = {"vqkd-3x768x12-clip": "vqkd-decoder_3x768x12_clip", "vqkd-1x768x12-clip": "vqkd-decoder_1x768x12_clip",
          "vqkd-1x768x12-dino": "vqkd-decoder_1x768x12_dino"}  # fmt: skip
EVIDENCE = Evidence(
    oracle=fixture_source("beit_v2_masked"),
    cases=(
        fixture_case("codes of hidden patches by both branches", "beit_v2_masked"),
        fixture_case("early patches after the last block, one more block", "beit_v2_masked_deep"),
        fixture_case("tokenizer: codes, and what is read of them", "beit_v2_tokenizer"),
    ),
    published=tuple(
        packed_size("beit_v2_sizes", STORED.get(each.name, each.name), each.parameters, each.name)
        for each in SYSTEM.variants
    ),
    training_checks={"tokenizer": distil, "masked-pictures": name_patches},
    headline=headline,
    layouts={SYSTEM.formats[1].name: tokens},
    exceptions=(
        "the teacher of the tokenizer (CLIP or DINO) is not part of the model: its features are given with the batch, "
        "and the lesson takes measured colours of patches and of what is around them in its place",
        "files that were fine-tuned to classes have exactly the names of BEiT's and open as beit",
    ),
)
