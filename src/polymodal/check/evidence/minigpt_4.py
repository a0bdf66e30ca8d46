"""MiniGPT-4 against the official code."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, Tensors
from polymodal.systems.minigpt_4 import SYSTEM


def alone(fixture: str) -> list[tuple[int, Tensors]]:
    """The fixture's rows without padding: the first has one picture, the second two."""
    _, tensors = read(fixture)
    rows = []
    for row, pictures in ((0, slice(0, 1)), (1, slice(1, 3))):
        ids = tensors["in.input_ids"][row][tensors["in.attention_mask"][row].bool()][None]
        rows.append((row, {"input_ids": ids, "pixel_values": tensors["in.pixel_values"][pictures]}))
    return rows


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=alone(fixture))


EVIDENCE = Evidence(
    oracle=fixture_source("minigpt_4"),
    cases=(
        case("Vicuna, Q-Former", "minigpt_4"),
        case("LLaMA-2, four neighbours, grouped heads, one layer", "minigpt_4_llama_2"),
    ),
    published=tuple(packed_size("minigpt_4_sizes", each.name, each.parameters) for each in SYSTEM.variants),
)
