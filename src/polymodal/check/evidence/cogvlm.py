"""CogVLM against the official remote code, run outside the project."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, Tensors

KEYS = "CogVLMForCausalLM of the official code on the meta device"


def rows(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding and with its own pictures."""
    _, tensors = read(fixture)
    mask, found = tensors["in.attention_mask"].bool(), []
    for row, pictures in ((0, slice(0, 2)), (1, slice(2, 3)), (2, None)):
        given = {name: tensors[f"in.{name}"][row][mask[row]][None] for name in ("input_ids", "token_type_ids")}
        if pictures is not None:
            given["images"] = tensors["in.images"][pictures]
        found.append((row, given))
    return found


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=rows(fixture))


EVIDENCE = Evidence(
    oracle=fixture_source("cogvlm"),
    cases=(
        case("two pictures, one, none", "cogvlm"),
        case("one layer, odd widths, other activations", "cogvlm_small"),
    ),
    published=(fixture_size("cogvlm", "chat", 17_639_685_376, KEYS),),
    exceptions=(
        "the oracle is put together from official files: CogVLM2's CogVLMForCausalLM with the VisionExpertAttention "
        "and EVA2CLIPModel of CogAgent, which are CogVLM-17B's",
    ),
)
