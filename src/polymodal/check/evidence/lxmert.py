"""LXMERT against transformers: regions and texts of unequal length, all its heads."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import library, randomise, regions
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.systems import Variant
from polymodal.systems.lxmert import SYSTEM
from polymodal.systems.lxmert.checkpoint import ANSWERS, MODEL, PRETRAINING

WORDS, REGIONS = (7, 4, 2), (5, 2, 4)


def tiny(transformers: Any, **more: Any) -> Any:
    """An LxmertConfig of test size."""
    small = {"vocab_size": 50, "hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 44, "l_layers": 2,
             "x_layers": 2, "r_layers": 1, "max_position_embeddings": 20, "num_qa_labels": 11, "num_object_labels": 9,
             "num_attr_labels": 6, "visual_feat_dim": 14}  # fmt: skip
    return transformers.LxmertConfig(**{**small, **more})


def inputs(config: Any) -> Tensors:
    """Three texts of unequal length, each with its own number of regions."""
    words = torch.tensor([[1] * n + [0] * (7 - n) for n in WORDS])
    seen = torch.tensor([[1] * n + [0] * (5 - n) for n in REGIONS])
    kinds = (torch.arange(7) > 2).long().expand(3, -1) * words
    return {
        "input_ids": randomise.ids("words", (3, 7), 4, 50) * words, "attention_mask": words, "token_type_ids": kinds,
        "visual_feats": randomise.values("feats", (3, 5, config.visual_feat_dim)) * seen[..., None],
        "visual_pos": randomise.values("pos", (3, 5, config.visual_pos_dim)).abs() / 2 * seen[..., None],
        "visual_attention_mask": seen,
    }  # fmt: skip


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row by itself, without padding."""
    rows = []
    for row, (words, seen) in enumerate(zip(WORDS, REGIONS, strict=True)):
        one = {name: given[name][row : row + 1, :words] for name in ("input_ids", "token_type_ids")}
        one |= {name: given[name][row : row + 1, :seen] for name in ("visual_feats", "visual_pos")}
        rows.append((row, one))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    body = oracle if type(oracle).__name__ == MODEL else library.part(oracle, "lxmert")
    text = library.part(body, "embeddings")(given["input_ids"], given["token_type_ids"])
    image = library.part(body, "encoder.visn_fc")(given["visual_feats"], given["visual_pos"])
    return {"text": text, "image": image}


def states(oracle: Any, given: Tensors) -> dict[str, Any]:
    """What the bare model gives."""
    found = oracle(**given)
    return {"text": found.language_output, "image": found.vision_output, "pooled": found.pooled_output}


def heads(oracle: Any, given: Tensors) -> dict[str, Any]:
    """What every head of the model of pretraining gives."""
    found = oracle(**given)
    made = {"words": found.prediction_logits, "match": found.cross_relationship_score}
    if oracle.config.task_obj_predict:
        seen = library.part(oracle, "lxmert")(**given).vision_output
        said = library.part(oracle, "obj_predict_head")(seen)
        names = {"obj": "objects", "attr": "attributes", "feat": "features"}
        made |= {names[name]: value for name, value in said.items()}
    return made | ({"answer": found.question_answering_score} if oracle.config.task_qa else {})


def case(name: str, model: str, **more: Any) -> Case:
    predictions = {MODEL: states, PRETRAINING: heads, ANSWERS: None}[model]
    logits = {MODEL: None, PRETRAINING: None, ANSWERS: library.field("question_answering_score")}[model]
    reading = Reading(logits=logits, features=features, predictions=predictions)
    rows = None if logits is None else alone
    return hugging_case(name, model, lambda t: tiny(t, **more), inputs, alone=rows, reading=reading)


def size(variant: Variant) -> Size:
    assert variant.config is not None
    config = variant.config
    return hugging_size(variant.name, config["architectures"][0], lambda t: t.LxmertConfig(**config))


def small(architecture: str, **more: Any) -> dict[str, Any]:
    """A config.json for training checks."""
    return {"model_type": "lxmert", "architectures": [architecture], "vocab_size": regions.VOCABULARY,
            "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "l_layers": 2, "x_layers": 2,
            "r_layers": 1, "max_position_embeddings": 48, "num_qa_labels": 8, "num_object_labels": 8,
            "num_attr_labels": 2, "visual_feat_dim": regions.FEATURES, **more}  # fmt: skip


def spec(config: dict[str, Any]) -> Any:
    return SYSTEM.formats[0].model_spec(config)


def asked(made: regions.Batches) -> regions.Batches:
    """What is hidden and replaced, with labels of regions (their nearest colour; whether they are bright) and of the
    pictures (which eighth of the names they belong to), of true pairs alone."""
    hidden = regions.hidden_and_replaced(made, classes=False)

    def batches(step: int) -> dict[str, Any]:
        batch = hidden(step)
        chances = regions.colour_classes(batch["visual_feats"])
        sure, colour = chances.max(-1)
        bright = (batch["visual_feats"].mean(-1) > 0).long()
        batch["region_labels"] = {"objects": colour, "attributes": bright}
        batch["region_confidence"] = {"objects": sure, "attributes": sure}
        own = batch["matched"].bool()
        batch["answer_labels"] = torch.where(own, batch["input_ids"][:, 1] % 8, -100)
        return batch

    return batches


def pretrain() -> TrainingCheck:
    """Letters, cells and their labels that are hidden; whether the name is the picture's; the first letter's class."""
    return regions.pretraining(spec(small(PRETRAINING)), asked)


def vqa() -> TrainingCheck:
    return regions.answering(spec(small(ANSWERS)))


def headline() -> HeadlineResult:
    config = small(ANSWERS)
    return regions.answered_headline(spec(config), config, "language, object and cross-modality blocks")


EVIDENCE = Evidence(
    oracle=f"transformers {MODEL}, {PRETRAINING}, {ANSWERS}",
    cases=(
        case("answers", ANSWERS),
        case("answers, one block each, ReLU, boxes of five numbers", ANSWERS, l_layers=1, x_layers=1, hidden_act="relu",
             visual_pos_dim=5, num_qa_labels=3),
        case("all heads of pretraining", PRETRAINING),
        case("no attributes, no answers", PRETRAINING, visual_attr_loss=False, task_qa=False, r_layers=3),
        case("no labels of regions, own word matrix", PRETRAINING, task_obj_predict=False, tie_word_embeddings=False),
        case("the bare model", MODEL, x_layers=3),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"pretrain": pretrain, "vqa": vqa},
    headline=headline,
    exceptions=(
        "regions come from files or from a detector that is plugged in: the Faster R-CNN of bottom-up attention is in "
        "no checkpoint of the catalogue, and the demonstration reads the cells of a grid in its place",
        "the .pth files of the official repository hold the same weights under other names and are not read",
    ),
)  # fmt: skip
