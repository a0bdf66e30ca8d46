"""Video-LLaMA against the official code, with and without the branch for sound."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, Tensors
from polymodal.systems.video_llama import SYSTEM


def alone(fixture: str) -> list[tuple[int, Tensors]]:
    """The fixture's rows without padding; each has one video, and one sound where there are sounds."""
    _, tensors = read(fixture)
    rows = []
    for row in (0, 1):
        ids = tensors["in.input_ids"][row][tensors["in.attention_mask"][row].bool()][None]
        media = {name[3:]: x[row : row + 1] for name, x in tensors.items() if name.endswith("_values")}
        rows.append((row, {"input_ids": ids, **media}))
    return rows


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=alone(fixture))


EVIDENCE = Evidence(
    oracle=fixture_source("video_llama"),
    cases=(
        case("video and sound", "video_llama"),
        case("video alone", "video_llama_silent"),
    ),
    published=tuple(packed_size("video_llama_sizes", each.name, each.parameters) for each in SYSTEM.variants),
)
