"""ViLBERT against its official code, run outside the project (check/fixtures/vilbert_*.safetensors)."""

from __future__ import annotations

from typing import Any

from polymodal.check import regions
from polymodal.check.fixture import fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.systems.vilbert import SYSTEM
from polymodal.systems.vilbert.checkpoint import PRETRAINED, TASK


def small(architecture: str, **more: Any) -> dict[str, Any]:
    """A config of test size."""
    return {
        "architectures": [architecture], "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3,
        "intermediate_size": 96, "max_position_embeddings": 48, "vocab_size": regions.VOCABULARY,
        "v_feature_size": regions.FEATURES, "v_target_size": 8, "v_hidden_size": 64, "v_num_hidden_layers": 2,
        "v_num_attention_heads": 4, "v_intermediate_size": 64, "bi_hidden_size": 64, "bi_num_attention_heads": 4,
        "v_biattention_id": [0, 1], "t_biattention_id": [2, 3], **more,
    }  # fmt: skip


def spec(config: dict[str, Any]) -> Any:
    return SYSTEM.formats[0].model_spec(config)


def pretrain() -> TrainingCheck:
    """Letters and cells that are hidden, and whether the name is the picture's."""
    return regions.pretraining(spec(small(PRETRAINED)))


def vqa() -> TrainingCheck:
    return regions.answering(spec(small(TASK, num_labels=8)))


def headline() -> HeadlineResult:
    config = small(TASK, num_labels=8)
    return regions.answered_headline(spec(config), config, "two streams that exchange keys and values twice")


EVIDENCE = Evidence(
    oracle=fixture_source("vilbert_pretrained"),
    cases=(
        regions.paired_case("pretrained: words, region classes, match", "vilbert_pretrained"),
        regions.paired_case(
            "tasks: answers, rank, regions, tokens; blocks between and behind the exchanges", "vilbert_task"
        ),
        regions.paired_case("one exchange behind all blocks, sum of the pooled vectors, ReLU", "vilbert_sum"),
    ),
    published=tuple(packed_size("vilbert_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"pretrain": pretrain, "vqa": vqa},
    headline=headline,
    exceptions=(
        "regions come from files or from a detector that is plugged in: the Faster R-CNN of bottom-up attention is in "
        "no checkpoint of the catalogue, and the demonstration reads the cells of a grid in its place",
        "the later twelve-in-one release of the same authors, with heads of its own, is not read",
    ),
)
