"""PandaGPT against the official class, run outside the project on a tiny ImageBind and a tiny LLaMA."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Evidence, Tensors
from polymodal.systems.pandagpt import SYSTEM


def rows() -> list[tuple[int, Tensors]]:
    """Each row of the batch without padding, with its own picture."""
    from polymodal.check import randomise

    _, tensors = read("pandagpt")
    vision = randomise.values("vision", (2, 3, 224, 224))
    mask = tensors["in.attention_mask"].bool()
    return [
        (row, {"input_ids": tensors["in.input_ids"][row][mask[row]][None], "vision": vision[row : row + 1]})
        for row in range(2)
    ]


EVIDENCE = Evidence(
    oracle=fixture_source("pandagpt"),
    cases=(
        fixture_case("two rows, a picture each", "pandagpt", alone=rows()),
        fixture_case("picture, video, sound and heat in one place, generated", "pandagpt_senses"),
    ),
    published=tuple(packed_size("pandagpt_sizes", each.name, each.parameters) for each in SYSTEM.variants),
)
