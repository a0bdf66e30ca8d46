"""mPLUG-Owl2 against the official code, run outside the project."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, Tensors

KEYS = "MPLUGOwl2LlamaForCausalLM of the official code on the meta device"


def rows(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding and with its own pictures."""
    _, tensors = read(fixture)
    mask, found = tensors["in.attention_mask"].bool(), []
    for row, pictures in ((0, slice(0, 2)), (1, slice(2, 3))):
        ids = tensors["in.input_ids"][row][mask[row]][None]
        found.append((row, {"input_ids": ids, "images": tensors["in.images"][pictures]}))
    return found


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=rows(fixture))


EVIDENCE = Evidence(
    oracle=fixture_source("mplug_owl2"),
    cases=(
        case("two pictures and one", "mplug_owl2"),
        case("biases, other activations, no last norm of the encoder", "mplug_owl2_biased"),
        case("no class token, resized positions, stretched rope", "mplug_owl2_no_class"),
    ),
    published=(fixture_size("mplug_owl2", "llama2-7b", 8_197_859_328, KEYS),),
    exceptions=("grouped key heads have no oracle: the official routing of k and v needs as many key heads as heads",),
)
