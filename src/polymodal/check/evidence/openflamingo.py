"""OpenFlamingo against the official classes, run elsewhere; see the sources in the fixtures.

The official Flamingo module, open_clip's vision transformer and the library's MPT, GPT-NeoX and LLaMA were filled with
random numbers and asked: texts before the pictures, three pictures and one, rows of unequal length, 16 greedy steps.
MPT-1B's norms of queries and keys were put into the library's MPT by hand.
"""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence
from polymodal.systems.openflamingo import SYSTEM

FIXTURES = {"3b": "openflamingo_mosaic", "4b": "openflamingo_neox", "9b": "openflamingo"}
COUNTED = {"3b": 2_559_117_360, "4b": 4_039_816_224, "9b": 8_131_465_232}  # by the official module itself
SOURCE = "official Flamingo class over transformers 4.33.3 on the meta device, without its aliases"

def case(name: str, fixture: str) -> Case:
    """The stored case, and each of its rows without padding and with its own pictures."""
    _, stored = read(fixture)
    rows = []
    for row, count in ((0, 3), (1, 1)):
        real = stored["in.attention_mask"][row].bool()
        ids, pictures = stored["in.input_ids"][row][real][None], stored["in.vision_x"][row, None, :count]
        rows.append((row, {"input_ids": ids, "vision_x": pictures}))
    return fixture_case(name, fixture, alone=tuple(rows))


EVIDENCE = Evidence(
    oracle=fixture_source("openflamingo"),
    cases=(
        case("MPT, a gated block in every second layer", "openflamingo"),
        case("MPT-1B with normed queries and keys, in every layer", "openflamingo_mosaic"),
        case("GPT-NeoX one after the other, untied head, exact gelu in CLIP", "openflamingo_neox"),
        case("LLaMA, as the first release", "openflamingo_llama"),
    ),
    published=tuple(
        fixture_size(FIXTURES[each.name[:2]], each.name, COUNTED[each.name[:2]], SOURCE) for each in SYSTEM.variants
    ),
)
