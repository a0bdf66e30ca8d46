"""VisCPM against the official code: conversations about a picture, trees of any shape, wishes for pictures."""

from __future__ import annotations

import json

from polymodal.check import randomise
from polymodal.check.fixture import fixture_case, fixture_source, read
from polymodal.check.record import Case, Evidence, Tensors


def case(name: str, fixture: str) -> Case:
    """A stored case; each row is also given by itself, without its padding."""
    about, tensors = read(fixture)
    pixels = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"])
    mask = tensors["in.attention_mask"].bool()
    alone: list[tuple[int, Tensors]] = []
    for row, real in enumerate(mask):
        given = {key[3:]: value[row][None] for key, value in tensors.items() if key.startswith("in.")}
        for key, value in given.items():
            if value.shape == (1, len(real)):
                given[key] = value[:, real]
        given["image_bound"] = given["image_bound"] - int(real.long().argmax())
        del given["attention_mask"]
        alone.append((row, {**given, "pixel_values": pixels[row : row + 1]}))
    return fixture_case(name, fixture, alone=alone)


EVIDENCE = Evidence(
    oracle=fixture_source("viscpm_chat"),
    cases=(
        case("two questions, numbered words, rounds before", "viscpm_chat"),
        case("one query, one block, few buckets", "viscpm_chat_small"),
        case("the official collater's batch: trees with answers between", "viscpm_answers"),
    ),
)
