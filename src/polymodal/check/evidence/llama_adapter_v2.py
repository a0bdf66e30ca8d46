"""LLaMA-Adapter V2 against the official code, run outside the project."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, Tensors

KEYS = "LLaMA_adapter of the official code on the meta device"


def rows(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding and with its own picture."""
    _, tensors = read(fixture)
    mask, found = tensors["in.attention_mask"].bool(), []
    for row in range(len(mask)):
        ids = tensors["in.input_ids"][row][mask[row]][None]
        found.append((row, {"input_ids": ids, "pixel_values": tensors["in.pixel_values"][row : row + 1]}))
    return found


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=rows(fixture))


EVIDENCE = Evidence(
    oracle=fixture_source("llama_adapter_v2"),
    cases=(
        case("biases, sizes by the shapes alone", "llama_adapter_v2"),
        case("low-rank paths and the second gate, prompts in every layer", "llama_adapter_v2_lora"),
        case("pretraining form, one layer", "llama_adapter_v2_caption"),
    ),
    published=(
        fixture_size("llama_adapter_v2", "bias-7b", 7_143_806_977, KEYS),
        fixture_size("llama_adapter_v2_lora", "lora-bias-7b", 7_183_783_969, KEYS),
        fixture_size("llama_adapter_v2_caption", "caption-7b", 7_142_709_249, KEYS),
    ),
    exceptions=(
        "the official module keeps parts of CLIP's text side and the gates of the first layer, which nothing reads; "
        "they are dropped by name here",
    ),
)
