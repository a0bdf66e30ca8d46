"""Speech as a second modality of one type with one seed: a run of its own, behind the run that learned pictures.

    python -m polymodal.study.speech_run FOLDER      reads FOLDER/plan.json and the learned.safetensors beside FOLDER,
                                                     writes FOLDER/result.json

    the model with pictures -> its held-out pictures and a text -> the same model with speech beside them, of which only
        what speech adds learns -> both again
Traps: a picture's logits are compared over the ids that were there before; the frozen linears are rounded before the
first comparison as well, so a difference is one that learning made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.study.fusion_run import (
    LEARNED,
    PLAN,
    Measured,
    Plan,
    bare_backbone,
    difference,
    finished,
    halved,
    held_out_logits,
    learn,
    named,
    text_logits,
)
from polymodal.study.fusion_types import TYPES, FusionType, with_speech
from polymodal.study.hearing import Hearing, real_hearing, tiny_hearing
from polymodal.study.naming import Subject
from polymodal.systems import AdamW, DataSource, Stage


@dataclass(frozen=True, kw_only=True)
class SpeechPlan(Plan):
    """speech: the recordings with labels, "" for the tones of a trial.  shared: what pictures go through as well goes
    on learning."""

    speech: str
    shared: bool = False

    def hearing(self, say: Callable[[str], None] = lambda text: None) -> Hearing:
        if not self.speech:
            return tiny_hearing()
        return real_hearing(Path(self.speech), Path(self.cache), self.codes, say)

    def stage(self, kind: FusionType) -> Stage:
        return replace(
            super().stage(kind),
            name=f"hear, {kind.id}",
            data=(DataSource(name=Path(self.speech).name or "tones", kind="audio-text pairs"),),
            train=kind.adds + (kind.shared if self.shared else ()),
            optimizer=AdamW(lr=kind.lr if self.shared else kind.added_lr, clip=1.0),
            start="name pictures",
        )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model says: logits of the held-out pictures [N, V] and of a text alone [T, V].  named: of the pictures."""

    pictures: Tensor
    text: Tensor
    named: dict[str, float]


def answers(model: MultimodalLM, subject: Subject, kind: FusionType, precision: str) -> Answers:
    naming, entry = subject.naming, subject.shape.entries["image"]
    found = list(held_out_logits(model, naming, entry, kind, precision))
    pictures = torch.cat([logits for logits, _ in found])
    return Answers(pictures=pictures, text=text_logits(model, subject, precision), named=named(naming, found))


def frozen(model: MultimodalLM, precision: str) -> MultimodalLM:
    model.requires_grad_(False)
    if precision == "bfloat16":
        halved(model)
    return model


def with_pictures(kind: FusionType, subject: Subject, learned: Path) -> MultimodalLM:
    """The model as the run that learned pictures left it."""
    model = kind.build(subject.shape, subject.weights)
    model.load_state_dict({**model.state_dict(), **load_file(learned)})
    return model


def with_both(kind: FusionType, subject: Subject, hearing: Hearing, learned: Path) -> MultimodalLM:
    """The same with speech beside the pictures, of which nothing was learned yet."""
    model = kind.build(with_speech(subject.shape, hearing.entry), subject.weights)
    model.load_state_dict(
        {**model.state_dict(), **{kind.kept(name): each for name, each in load_file(learned).items()}}
    )
    return model


def run(plan: SpeechPlan, folder: Path) -> dict[str, Any]:
    """Add speech, let it learn, measure; the result is in FOLDER/result.json when it returns."""
    torch.set_num_threads(1)
    subject, hearing, kind = plan.subject(), plan.hearing(), TYPES[plan.letter]
    learned = folder.parent / LEARNED
    torch.manual_seed(plan.seed)
    bare = text_logits(frozen(bare_backbone(subject), plan.precision), subject, plan.precision)
    before = answers(frozen(with_pictures(kind, subject, learned), plan.precision), subject, kind, plan.precision)
    model, stage = with_both(kind, subject, hearing, learned), plan.stage(kind)
    measured = Measured(hearing.naming, hearing.entry, model, kind, plan)
    learn(model, stage, measured, folder)
    after = answers(model, subject, kind, plan.precision)
    found = measured.result(stage, subject.encoder + hearing.encoder)
    pictures = {
        "before": before.named, "after": after.named, "difference": difference(after.pictures, before.pictures),
    }  # fmt: skip
    changed = {
        "text_difference": difference(after.text, before.text),
        "text_difference_before": difference(before.text, bare),
    }
    return finished(folder, {**found, "pictures": pictures, **changed})


if __name__ == "__main__":
    place = Path(sys.argv[1])
    run(SpeechPlan(**json.loads((place / PLAN).read_text())), place)
