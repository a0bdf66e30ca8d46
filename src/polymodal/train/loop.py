"""The one training loop: stage in, trained parameters and a log out, resumable at any step.

    batch = batches(step, generator)  ->  losses = stage.objective.build(model)(model, batch)  ->  optimiser step

`batches` is a function of the step and of a seeded generator, so a resumed run sees the samples it would have
seen.  The log is `log.jsonl`: a line a step with the loss and its parts, rate, gradient norm and seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.models.output import total_loss
from polymodal.nn.first_weight import first_weight
from polymodal.train import checkpoint
from polymodal.train.checkpoint import Run
from polymodal.train.parameters import parameter_groups, prepare, train_mode
from polymodal.train.recipe import Stage, as_dict

Batches = Callable[[int, torch.Generator], Any]


def run_stage(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    folder: Path,
    save_every: int = 200,
    report: Callable[[int, dict[str, float]], None] | None = None,
    stop_at: int | None = None,
    seed: int = 0,
) -> list[float]:
    """Train `stage` in place and return the losses of the steps run now.

    Resumes from `folder` when it holds a finished checkpoint of the same stage.  `stop_at` ends early at that
    step (for tests and for time limits) with a checkpoint written.  Raises ConfigError when the loss stops
    being a number, naming the step, and for a stage whose rate, schedule or steps were not published.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    prepare(model, stage)
    objective = stage.objective.build(model).to(first_weight(model).device)
    beside = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = parameter_groups(model, stage, beside)
    if not groups:
        raise ConfigError(f"stage {stage.name} trains nothing: train={stage.train} and lora={dict(stage.lora)}")
    optimiser = stage.optimizer.build(groups)
    generator = torch.Generator().manual_seed(seed)
    run = Run(model=model, objective=objective, optimiser=optimiser, generator=generator)
    about = {"stage": as_dict(stage), "seed": seed}
    start = checkpoint.restore(folder, run, about)
    end = min(stage.steps, stop_at or stage.steps)
    train_mode(model)
    train_mode(objective)
    losses: list[float] = []
    forget_after(folder / "log.jsonl", start)
    with (folder / "log.jsonl").open("a") as log:
        for step in range(start, end):
            began = time.perf_counter()
            line = train_step(run, stage, batches(step, run.generator), step)
            line["seconds"] = time.perf_counter() - began
            losses.append(line["loss"])
            log.write(json.dumps({"step": step, **line}) + "\n")
            if report is not None:
                report(step, line)
            if (step + 1) % save_every == 0 or step + 1 == end:
                log.flush()
                checkpoint.save(folder, step + 1, run, about)
    model.eval()
    return losses


def train_step(run: Run, stage: Stage, batch: Any, step: int) -> dict[str, float]:
    """One optimiser step; returns the loss, its parts by name, the rate and the norm of the gradients."""
    rate = stage.rate(step)
    for group in run.optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    parts = run.objective(run.model, batch)
    loss = total_loss(parts)
    if not torch.isfinite(loss):
        raise ConfigError(
            f"stage {stage.name}: the loss is {loss.item()} at step {step}; lower lr={stage.optimizer.lr}"
        )
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    learning = [parameter for group in run.optimiser.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learning, stage.optimizer.clip or float("inf"))
    run.optimiser.step()
    named = {name: part.item() for name, part in parts.items()} if len(parts) > 1 else {}
    return {"loss": loss.item(), "lr": rate, "norm": norm.item(), **named}


def forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that will be run again, written between the last checkpoint and a kill."""
    if log.exists():
        whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
        lines = [line for line in whole if json.loads(line)["step"] < step]
        log.write_text("".join(line + "\n" for line in lines))
