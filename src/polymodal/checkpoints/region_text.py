"""What systems that read a detector's regions share: the drawing, the processor, answers and scores.

Answers of a head are named by one of ANSWER_FILES beside the weights (a list, or {answer: column}), else by id2label of
the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from polymodal.checkpoints.record import CheckpointFiles, LoadedModel, Part
from polymodal.data.region_processor import RegionProcessor, RegionRules
from polymodal.encoders.regions import region_positions
from polymodal.errors import ConfigError, WeightsError
from polymodal.files import read_json
from polymodal.models.region_text import RegionTextConfig
from polymodal.pipelines.image_text_matching import bert_ids
from polymodal.pipelines.region_matching import RegionScores

ANSWER_FILES = ("trainval_label2ans.json", "label2ans.json", "ans2label.json", "answers.json")


def region_part(model: RegionTextConfig, name: str) -> Part:
    """The box of the regions in a drawing."""
    regions = model.regions
    return Part(
        slot="encoder", name=name, prefix="regions", modality="regions",
        input=f"visual_feats [B, R, {regions.features}], visual_pos [B, R, {regions.positions}]",
        output=f"[B, R, {regions.width}]",
    )  # fmt: skip


def answers_of(files: CheckpointFiles, count: int) -> tuple[str, ...]:
    """Names of the columns of an answer head.  Raises ConfigError for a list of another length; "answer 3" and the like
    where nothing names them."""
    for name in ANSWER_FILES:
        if not (files.folder / name).is_file():
            continue
        found = read_json(files.folder / name)
        if isinstance(found, Mapping):
            found = [answer for answer, _ in sorted(found.items(), key=lambda pair: int(pair[1]))]
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise WeightsError(f"{files.folder / name}: expected a list of answers, or a table of their columns")
        if len(found) != count:
            raise ConfigError(f"{files.folder / name}: {len(found)} answers for a head of {count}")
        return tuple(found)
    named = files.json("config.json").get("id2label")
    if isinstance(named, Mapping) and len(named) == count:
        return tuple(str(named[str(i)]) for i in range(count))
    return tuple(f"answer {i}" for i in range(count))


def assemble_regions(
    module: nn.Module,
    files: CheckpointFiles,
    *,
    longest: int,
    yes: int = 1,
    answers: int | None = None,
    head: str = "match",
    **rules: Any,
) -> LoadedModel:
    """Processor, and classify by a match head where there is one; answers: columns of the main head.

    longest: ids of a text.  rules: fields of RegionRules, with `positions` as a number.
    """
    tokenizer: Any = files.tokenizer()
    config: Any = module.config
    processor = RegionProcessor(
        rules=RegionRules(features=config.regions.features, **{
            **rules, "positions": partial(region_positions, numbers=config.regions.positions)}),
        tokenizer=tokenizer,
        ids=bert_ids(tokenizer, longest),
        answers=() if answers is None else answers_of(files, answers),
    )  # fmt: skip
    scores = RegionScores(model=module, processor=processor, head=head, yes=yes)
    return LoadedModel(
        model=module,
        processor=processor,
        score=scores.score if head in config.heads else None,
    )
