"""PandaGPT against the official class, run outside the project on a tiny ImageBind and a tiny LLaMA."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import polymodal as pm
from polymodal.check import bound, randomise, real
from polymodal.check.demo import write_config, write_weights
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Evidence, Lesson, Shown, Tensors
from polymodal.check.seeing import trained
from polymodal.systems.pandagpt import SYSTEM


def rows() -> list[tuple[int, Tensors]]:
    """Each row of the batch without padding, with its own picture."""
    _, tensors = read("pandagpt")
    vision = randomise.values("vision", (2, 3, 224, 224))
    mask = tensors["in.attention_mask"].bool()
    return [
        (row, {"input_ids": tensors["in.input_ids"][row][mask[row]][None], "vision": vision[row : row + 1]})
        for row in range(2)
    ]


def lesson() -> Lesson:
    """Real pictures and the letters of their names, behind one place for the senses."""
    torch.manual_seed(0)
    return bound.naming(SYSTEM.layouts[0].opened(bound.config("pandagpt")).build(), [1, -1, 2])


def headline() -> Shown:
    """A tiny PandaGPT, trained on pictures, answers about a sum of picture, sound and heat, token by token from a
    folder in the published layout; the sum changes the answer's logits, as the official code says to 1e-5."""
    with tempfile.TemporaryDirectory() as place:
        folder, opened = Path(place), SYSTEM.layouts[0].opened(bound.config("pandagpt"))
        write_config(folder, config=bound.config("pandagpt"))
        model = trained(lesson(), 40)
        write_weights(folder, model, opened.keys[0])
        loaded = pm.load(folder)
        given = {"input_ids": torch.tensor([[1, -1, 2]]), "vision": real.pixels(224, count=1)}
        heat = {"thermal": randomise.values("heat", (1, 1, 224, 224))}
        alone, summed = loaded.logits(**given), loaded.logits(**given, **heat)
        settings: Tensors = {**given, **heat, "max_new_tokens": 8, "eos_token_id": None}
        ids = loaded.generate(**settings)
    moved = float((alone - summed).abs().max())
    said = f"picture and heat in one place answer with {ids.shape[1] - 3} tokens; heat moves the logits by {moved:.2f}"
    return Shown(ok=moved > 1e-3 and ids.shape[1] == 11, evidence=said)


EVIDENCE = Evidence(
    oracle=fixture_source("pandagpt"),
    cases=(
        fixture_case("two rows, a picture each", "pandagpt", alone=rows()),
        fixture_case("picture, video, sound and heat in one place, generated", "pandagpt_senses"),
    ),
    lessons={"instruct": lesson},
    headline=headline,
    published=tuple(packed_size("pandagpt_sizes", each.name, each.parameters) for each in SYSTEM.variants),
)
