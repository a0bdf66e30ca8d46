"""UNITER against its official code, run outside the project (check/fixtures/uniter_*.safetensors)."""

from __future__ import annotations

from typing import Any

from polymodal.check import regions
from polymodal.check.fixture import fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.systems.uniter import SYSTEM
from polymodal.systems.uniter.checkpoint import ANSWERS, PRETRAINED


def small(kind: str, **more: Any) -> dict[str, Any]:
    """A config of test size."""
    return {"model_type": "uniter", "kind": kind, "vocab_size": regions.VOCABULARY, "hidden_size": 64,
            "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 48,
            "img_dim": regions.FEATURES, "img_label_dim": 8, **more}  # fmt: skip


def spec(config: dict[str, Any]) -> Any:
    return SYSTEM.formats[0].model_spec(config)


def pretrain() -> TrainingCheck:
    """Hidden letters of whole pictures, hidden cells of whole names, and which names belong to which pictures."""
    return regions.pretraining(spec(small(PRETRAINED)))


def vqa() -> TrainingCheck:
    return regions.answering(spec(small(ANSWERS, num_labels=8)))


def headline() -> HeadlineResult:
    config = small(PRETRAINED)
    return regions.matched_headline(spec(config), config, SYSTEM.recipe[0].objective, "words and regions in one stream")


EVIDENCE = Evidence(
    oracle=fixture_source("uniter_pretrained"),
    cases=(
        regions.paired_case("pretrained: match, padding of both", "uniter_pretrained"),
        regions.paired_case("pretrained: words, features, classes", "uniter_heads"),
        regions.paired_case("answers, three kinds of tokens", "uniter_answers"),
        regions.paired_case("retrieval, ReLU", "uniter_retrieval"),
        regions.paired_case("scores of regions, two layers", "uniter_regions"),
    ),
    published=tuple(packed_size("uniter_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"pretrain": pretrain, "vqa": vqa},
    headline=headline,
    exceptions=(
        "regions come from files or from a detector that is plugged in: the Faster R-CNN of bottom-up attention is in "
        "no checkpoint of the catalogue, and the demonstration reads the cells of a grid in its place",
        "files fine-tuned on NLVR2 and VCR, which have two pictures a text and more kinds of tokens, are not read",
    ),
)
