"""NExT-GPT against the official class, run outside the project on a tiny ImageBind and a tiny LLaMA, with the
projectors in their published size; its conditions are compared as the headline."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import TOLERANCE, Evidence, Shown, Tensors
from polymodal.systems.next_gpt import SYSTEM


def batch() -> Tensors:
    """Two rows with a picture each, whose answers ask for pictures, a video and a sound."""
    _, tensors = read("next_gpt")
    vision = randomise.values("vision", (2, 3, 224, 224))
    return {**{name: tensors[f"in.{name}"] for name in ("input_ids", "attention_mask")}, "vision": vision}


def rows() -> list[tuple[int, Tensors]]:
    """Each row of the batch without padding, with its own picture."""
    given = batch()
    mask = given["attention_mask"].bool()
    return [(row, {"input_ids": given["input_ids"][row][mask[row]][None], "vision": given["vision"][row : row + 1]})
            for row in range(2)]  # fmt: skip


def conditions_error(folder: Path) -> tuple[float, dict[str, list[int]]]:
    """Largest error of the conditions of all signals against the official projectors, and their shapes."""
    case = fixture_case("", "next_gpt")
    case.make(folder)
    found = pm.load(folder, system="next-gpt").module.conditions(**batch())
    _, tensors = read("next_gpt")
    wanted = {name.removeprefix("out.conditions."): x for name, x in tensors.items() if name.startswith("out.cond")}
    if set(found) != set(wanted):
        return float("inf"), {}
    error = max(float((found[name] - wanted[name]).abs().max()) for name in wanted)
    return error, {name: list(x.shape) for name, x in found.items()}


def headline() -> Shown:
    """Signal tokens in an answer become what the three generators are told, as the official code makes it."""
    with tempfile.TemporaryDirectory() as place:
        error, shapes = conditions_error(Path(place))
    made = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return Shown(ok=error <= TOLERANCE, evidence=f"conditions of {made} differ from the official ones by {error:.1e}")


EVIDENCE = Evidence(
    oracle=fixture_source("next_gpt"),
    cases=(
        fixture_case("two rows, a picture each, signals in the answers", "next_gpt", alone=rows()),
        fixture_case("two pictures, a sound and a video at places of their own, generated", "next_gpt_senses"),
    ),
    published=tuple(packed_size("next_gpt_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    headline=headline,
)
