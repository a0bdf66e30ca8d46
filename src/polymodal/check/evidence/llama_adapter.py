"""LLaMA-Adapter against the official code, run outside the project; rows of unequal length, 16 greedy steps."""

from __future__ import annotations

from dataclasses import replace

from polymodal.check.evidence._text import headline, training_checks
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, TrainingCheck
from polymodal.systems.llama_adapter import SYSTEM

SMALL = {"model_type": "llama_adapter", "dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 16, "norm_eps": 1e-6,
         "vocab_size": 40, "max_seq_len": 1024, "adapter_len": 4, "adapter_layer": 2}  # fmt: skip


def case(name: str, fixture: str) -> Case:
    """The stored case, and each of its rows without padding."""
    _, stored = read(fixture)
    mask = stored["in.attention_mask"].bool()
    alone = [(row, {"input_ids": stored["in.input_ids"][row][mask[row]][None]}) for row in range(len(mask))]
    return fixture_case(name, fixture, alone=alone)


def training_check() -> TrainingCheck:
    """Names of pictures, letter by letter, by prompts alone behind gates that start closed."""
    return replace(training_checks(SYSTEM, SMALL)["alpaca"](), lr=5e-2)


EVIDENCE = Evidence(
    oracle=fixture_source("llama_adapter"),
    cases=(
        case("prompts in the last two of four layers", "llama_adapter"),
        case("prompts in every layer, five heads", "llama_adapter_every_layer"),
    ),
    published=(
        fixture_size("llama_adapter", "7b", 6_739_645_440, "Transformer of the official code on the meta device"),
    ),
    training_checks={"alpaca": training_check},
    headline=lambda: headline(SYSTEM, SMALL, ["<s>", "</s>", "<unk>"], steps=150),
    exceptions=(
        "the paper's model that sees (CLIP's features in the prompts, for ScienceQA) was never released and is not "
        "here: OpenGVLab/LLaMA-Adapter @ 521a09da84f70f6913d54b7421afa24010319e47 has neither code nor weights of it "
        "and lists V1 as a model of text alone",
        "the official code rounds prompts and gates to half precision; the oracle ran without that",
    ),
)
