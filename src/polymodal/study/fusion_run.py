"""One run of the fusion study: one type with one seed, in a process of its own, which measures its time and memory.

    python -m polymodal.study.fusion_run FOLDER      reads FOLDER/plan.json, writes FOLDER/result.json

    subject -> model of the type -> stage of the trainer, with the held-out pictures named several times on the way
Time is that of the process (CPU seconds): the machine may be shared.  Traps: it counts training alone, not the naming
of held-out pictures; the frozen linears are kept in bfloat16, which is what the stage computes in.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.study.fusion_types import TYPES, FusionType
from polymodal.study.naming import Subject, real_subject, tiny_subject
from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage
from polymodal.train.loop import LoopOptions, autocast, run_stage
from polymodal.train.parameters import train_mode

PLAN, RESULT = "plan.json", "result.json"
CHUNK = 64  # held-out pictures that are named together


@dataclass(frozen=True, kw_only=True)
class Plan:
    """letter, seed: which run.  data: the pictures with names, "" for the tiny subject of a trial.  evaluations: how
    often the held-out pictures are named, the end included."""

    letter: str
    seed: int
    data: str
    cache: str
    names: int = 64
    codes: int = 512
    steps: int = 100
    batch: int = 32
    evaluations: int = 5
    precision: str = "bfloat16"

    def subject(self) -> Subject:
        if not self.data:
            return tiny_subject()
        return real_subject(Path(self.data), Path(self.cache), self.names, self.codes, lambda text: None)

    def stage(self, kind: FusionType) -> Stage:
        return Stage(
            name=f"name pictures, {kind.id}",
            data=(DataSource(name=Path(self.data).name or "tiny", kind="image-text pairs"),),
            objective=LanguageModeling(),
            train=kind.train,
            optimizer=AdamW(lr=kind.lr, clip=1.0),
            schedule=Cosine(warmup_ratio=0.1),
            budget=Budget(batch=self.batch, steps=self.steps, precision=self.precision),
            start="parts",
        )


class Measured:
    """Batches and reports of one run: CPU seconds of its steps, and the curve of its held-out pictures."""

    def __init__(self, subject: Subject, model: MultimodalLM, kind: FusionType, plan: Plan) -> None:
        self.subject, self.model, self.kind, self.plan = subject, model, kind, plan
        self.learned = (~subject.naming.held_out).nonzero().flatten()
        self.curve: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.cpu = self.began = 0.0
        self.at = {round(plan.steps * (i + 1) / plan.evaluations) for i in range(plan.evaluations)}

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Each picture once before any comes twice; all types see the same pictures of a seed in the same order."""
        self.began = time.process_time()
        first, count = step * self.plan.batch, len(self.learned)
        places = range(first, first + self.plan.batch)
        orders = {epoch: self.order(epoch) for epoch in {place // count for place in places}}
        chosen = torch.stack([orders[place // count][place % count] for place in places])
        return self.subject.naming.rows(self.kind, self.subject.shape.entries["image"], chosen)

    def order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.plan.seed + epoch)
        return self.learned[torch.randperm(len(self.learned), generator=generator)]

    def report(self, step: int, steps: int, line: dict[str, float]) -> None:
        self.cpu += time.process_time() - self.began
        self.losses.append(line["loss"])
        if step + 1 in self.at:
            samples = (step + 1) * self.plan.batch
            self.curve.append({"step": step + 1, "samples": samples, "cpu": self.cpu, **self.named()})
            train_mode(self.model)

    @torch.no_grad()
    def named(self) -> dict[str, float]:
        """Loss over the vocabulary and accuracy among the names, of the held-out pictures."""
        naming, entry = self.subject.naming, self.subject.shape.entries["image"]
        known = torch.tensor(list(naming.names))
        self.model.eval()
        loss = right = 0.0
        chosen = naming.held_out.nonzero().flatten()
        for some in chosen.split(CHUNK):
            batch = naming.rows(self.kind, entry, some)
            answers = batch.pop("labels")[:, -1]
            with autocast(self.model, self.plan.precision):
                hidden = self.model(**batch, return_logits=False).hidden[:, -2]
                logits = self.model.backbone.head(hidden).float()
            loss += float(F.cross_entropy(logits, answers, reduction="sum"))
            right += float((known[logits[:, known].argmax(-1)] == answers).sum())
        return {"loss": loss / len(chosen), "accuracy": right / len(chosen)}


def halved(model: nn.Module) -> None:
    """Frozen linears of the blocks in bfloat16."""
    for part in model.modules():
        if isinstance(part, nn.Linear) and not part.weight.requires_grad:
            part.weight.data = part.weight.data.bfloat16()


def operations(model: nn.Module, objective: nn.Module, batch: Mapping[str, Tensor], precision: str) -> dict[str, float]:
    """Floating-point operations of one sample: of naming it, and of learning it."""
    count = len(batch["input_ids"])
    found = {}
    for name, backward in (("forward", False), ("train", True)):
        with FlopCounterMode(display=False) as counter, autocast(model, precision), torch.set_grad_enabled(backward):
            loss = sum(objective(model, batch).values())
            if backward:
                loss.backward()
        found[name] = counter.get_total_flops() / count
    model.zero_grad(set_to_none=True)
    return found


def text_difference(model: MultimodalLM, subject: Subject) -> float:
    """Largest difference of the logits of a text alone to those of the bare backbone."""
    ids = torch.tensor([[*subject.naming.after, *list(subject.naming.names)[:3]]])
    bare = subject.shape.backbone.build()
    bare.load_state_dict(dict(subject.weights))
    with torch.no_grad():
        wanted = MultimodalLM({}, {}, bare, {}).eval()(input_ids=ids).logits
        found = model.eval()(input_ids=ids).logits[..., : wanted.shape[-1]]
    return float((found - wanted).abs().max())


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Train and measure; the result is in FOLDER/result.json when it returns."""
    torch.set_num_threads(1)
    subject, kind = plan.subject(), TYPES[plan.letter]
    torch.manual_seed(plan.seed)
    model = kind.build(subject.shape, subject.weights)
    changed = text_difference(model, subject)
    stage = plan.stage(kind)
    measured = Measured(subject, model, kind, plan)

    def prepared(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == 0 and plan.precision == "bfloat16":
            halved(model)
        return measured.batch(step, generator)

    options = LoopOptions(precision=plan.precision, report=measured.report)
    run_stage(model, stage, prepared, folder / "run", save_every=plan.steps, seed=plan.seed, options=options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    some = subject.naming.rows(kind, subject.shape.entries["image"], measured.learned[:2])
    total = sum(parameter.numel() for parameter in model.parameters()) + subject.encoder
    learns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    samples = plan.steps * plan.batch
    result = {
        **asdict(plan), "type": kind.id, "lr": kind.lr, "curve": measured.curve, "losses": measured.losses,
        "cpu": measured.cpu, "parameters": total, "trainable": learns, "peak_mb": peak,
        "positions": some["input_ids"].shape[1], "samples": samples,
        "tokens_per_second": samples * some["input_ids"].shape[1] / max(measured.cpu, 1e-9),
        "samples_per_second": samples / max(measured.cpu, 1e-9),
        "operations": operations(model, stage.objective.build(model), some, plan.precision), "text_difference": changed,
    }  # fmt: skip
    shutil.rmtree(folder / "run")
    draft = folder / f"{RESULT}.part"
    draft.write_text(json.dumps(result, indent=1))
    draft.replace(folder / RESULT)
    return result


if __name__ == "__main__":
    place = Path(sys.argv[1])
    run(Plan(**json.loads((place / PLAN).read_text())), place)
