"""One run of the fusion study: one type with one seed, in a process of its own, which measures its time and memory.

    python -m polymodal.study.fusion_run FOLDER      reads FOLDER/plan.json, writes FOLDER/result.json and
                                                     FOLDER/learned.safetensors, what learned

    subject -> model of the type -> stage of the trainer, with the held-out pictures named several times on the way
Time is that of the process (CPU seconds): the machine may be shared.  Traps: it counts training alone, not the naming
of held-out pictures; in bfloat16 the frozen linears are kept so, too.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.study.fusion_types import TYPES, Entry, FusionType
from polymodal.study.naming import Naming, Subject, real_subject, tiny_subject
from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage
from polymodal.train.loop import LoopOptions, autocast, run_stage
from polymodal.train.parameters import train_mode
from polymodal.train.utilisation import counter

PLAN, RESULT, LEARNED = "plan.json", "result.json", "learned.safetensors"
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

    def subject(self, say: Callable[[str], None] = lambda text: None) -> Subject:
        if not self.data:
            return tiny_subject()
        return real_subject(Path(self.data), Path(self.cache), self.names, self.codes, say)

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
    """Batches and reports of one run: CPU seconds of its steps, and the curve of what is held out."""

    def __init__(self, naming: Naming, entry: Entry, model: MultimodalLM, kind: FusionType, plan: Plan) -> None:
        self.naming, self.entry, self.model, self.kind, self.plan = naming, entry, model, kind, plan
        self.learned = (~naming.held_out).nonzero().flatten()
        self.curve: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.cpu = self.began = 0.0
        self.at = {round(plan.steps * (i + 1) / plan.evaluations) for i in range(plan.evaluations)}

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Each sample once before any comes twice; all types see the same ones of a seed in the same order."""
        if step == 0 and self.plan.precision == "bfloat16":
            halved(self.model)
        self.began = time.process_time()
        first, count = step * self.plan.batch, len(self.learned)
        places = range(first, first + self.plan.batch)
        orders = {epoch: self.order(epoch) for epoch in {place // count for place in places}}
        chosen = torch.stack([orders[place // count][place % count] for place in places])
        return self.naming.rows(self.kind, self.entry, chosen)

    def order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.plan.seed + epoch)
        return self.learned[torch.randperm(len(self.learned), generator=generator)]

    def report(self, step: int, steps: int, line: dict[str, float]) -> None:
        self.cpu += time.process_time() - self.began
        self.losses.append(line["loss"])
        if step + 1 in self.at:
            samples = (step + 1) * self.plan.batch
            found = held_out_logits(self.model, self.naming, self.entry, self.kind, self.plan.precision)
            self.curve.append({"step": step + 1, "samples": samples, "cpu": self.cpu, **named(self.naming, found)})
            train_mode(self.model)

    def result(self, stage: Stage, encoder: int) -> dict[str, Any]:
        """What is said of a run that ended.  encoder: parameters of the frozen encoders."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        some = self.naming.rows(self.kind, self.entry, self.learned[:2])
        samples, positions = self.plan.steps * self.plan.batch, some["input_ids"].shape[1]
        work = operations(self.model, stage.objective.build(self.model), some, self.plan.precision)
        return {
            **asdict(self.plan), "type": self.kind.id, "lr": stage.optimizer.lr, "curve": self.curve,
            "losses": self.losses, "cpu": self.cpu, "peak_mb": peak, "samples": samples, "positions": positions,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()) + encoder,
            "trainable": sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad),
            "tokens_per_second": samples * positions / max(self.cpu, 1e-9),
            "samples_per_second": samples / max(self.cpu, 1e-9), "operations": work,
        }  # fmt: skip


def held_out_logits(
    model: MultimodalLM, naming: Naming, entry: Entry, kind: FusionType, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Float32 logits [n, V] of the answer of what is held out, some at a time, and the answers."""
    model.eval()
    with torch.no_grad():
        for some in naming.held_out.nonzero().flatten().split(CHUNK):
            batch = naming.rows(kind, entry, some)
            answers = batch.pop("labels")[:, -1]
            with autocast(model, precision):
                hidden = model(**batch, return_logits=False).hidden[:, -2]
                logits = model.backbone.head(hidden).float()
            yield logits, answers


def named(naming: Naming, held_out: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Loss over the vocabulary and accuracy among the names, of the logits and answers of all that is held out."""
    known = torch.tensor(list(naming.names))
    loss = right = 0.0
    for logits, answers in held_out:
        loss += float(F.cross_entropy(logits, answers, reduction="sum"))
        right += float((known[logits[:, known].argmax(-1)] == answers).sum())
    count = int(naming.held_out.sum())
    return {"loss": loss / count, "accuracy": right / count}


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
        with counter() as counted, autocast(model, precision), torch.set_grad_enabled(backward):
            loss = sum(objective(model, batch).values())
            if backward:
                loss.backward()
        found[name] = counted.get_total_flops() / count
    model.zero_grad(set_to_none=True)
    return found


def text_logits(model: MultimodalLM, subject: Subject, precision: str) -> Tensor:
    """Of a text alone, float32 [T, V]."""
    ids = torch.tensor([[*subject.naming.after, *list(subject.naming.names)[:3]]])
    with torch.no_grad(), autocast(model, precision):
        logits: Tensor = model.eval()(input_ids=ids).logits[0]
    return logits.float()


def bare_backbone(subject: Subject) -> MultimodalLM:
    """The backbone that met no other modality."""
    bare = subject.shape.backbone.build()
    bare.load_state_dict(dict(subject.weights))
    return MultimodalLM({}, {}, bare, {})


def difference(first: Tensor, second: Tensor) -> float:
    """The largest one of logits [..., V], [..., V'] over the ids that both have."""
    ids = min(first.shape[-1], second.shape[-1])
    return float((first[..., :ids] - second[..., :ids]).abs().max())


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Train and measure; the result is in FOLDER/result.json when it returns."""
    torch.set_num_threads(1)
    subject, kind = plan.subject(), TYPES[plan.letter]
    torch.manual_seed(plan.seed)
    model = kind.build(subject.shape, subject.weights)
    changed = difference(
        text_logits(model, subject, "float32"), text_logits(bare_backbone(subject), subject, "float32")
    )
    stage = plan.stage(kind)
    measured = Measured(subject.naming, subject.shape.entries["image"], model, kind, plan)
    learn(model, stage, measured, folder)
    learned = {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}
    save_file(learned, folder / LEARNED)
    return finished(folder, {**measured.result(stage, subject.encoder), "text_difference": changed})


def learn(model: MultimodalLM, stage: Stage, measured: Measured, folder: Path) -> None:
    """The stage through the loop of `polymodal train`, without what that keeps."""
    plan = measured.plan
    options = LoopOptions(precision=plan.precision, report=measured.report)
    run_stage(model, stage, measured.batch, folder / "run", save_every=plan.steps, seed=plan.seed, options=options)
    shutil.rmtree(folder / "run")


def finished(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Keep a result, whole or not at all."""
    draft = folder / f"{RESULT}.part"
    draft.write_text(json.dumps(result, indent=1))
    draft.replace(folder / RESULT)
    return result


if __name__ == "__main__":
    place = Path(sys.argv[1])
    run(Plan(**json.loads((place / PLAN).read_text())), place)
