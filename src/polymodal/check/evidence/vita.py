"""VITA against its published code, run outside the project."""

from __future__ import annotations

import json
from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, Tensors
from polymodal.systems.vita import SYSTEM

VALUES = ("pixel_values", "video_values", "audios")


def case(name: str, fixture: str, *rows: tuple[int, int, int]) -> Case:
    """rows: tiles, frames and recordings that each row of the fixture has; the first row is generated from."""
    about, tensors = read(fixture)
    made = {key: randomise.values(key, shape) for key, shape in json.loads(about["made"]).items()}
    lengths, found, first = tensors["in.audio_lengths"], [], [0, 0, 0]
    for row, counts in enumerate(rows):
        alone: Tensors = {"input_ids": unpadded(tensors, row)}
        for index, (key, count) in enumerate(zip(VALUES, counts, strict=True)):
            if count:
                alone[key] = made[key][first[index] : first[index] + count]
            if count and key == "audios":
                alone["audio_lengths"] = lengths[first[index] : first[index] + count]
                alone[key] = alone[key][:, : int(alone["audio_lengths"].max())]
            first[index] += count
        found.append((row, alone))
    return fixture_case(name, fixture, alone=found, prompt=found[0][1])


EVIDENCE = Evidence(
    oracle=fixture_source("vita"),
    cases=(
        case("tiles and a recording, frames, a longer recording, text", "vita", (3, 0, 1), (0, 4, 0), (0, 0, 1), (0, 0, 0)),
        case("one expert, odd widths, window, RMS norms in the tower, shortest sound", "vita_small", (1, 0, 1), (2, 0, 1)),
    ),
    published=(packed_size("vita_sizes", "8x7b", SYSTEM.variants[0].parameters),),
)
