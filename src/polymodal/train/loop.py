"""The one training loop: stage in, trained parameters and a log out, resumable at any step.

    batch = batches(step, generator)  ->  loss, numbers = objective(model, batch)  ->  AdamW step

`batches` is a function of the step and of a seeded generator, so a resumed run sees the samples it would have
seen.  The log is `log.jsonl`: a line a step with the loss, rate, gradient norm and seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.train import checkpoint
from polymodal.train.recipe import Stage, freeze_except, train_mode, trainable

Batches = Callable[[int, torch.Generator], Any]
Objective = Callable[[nn.Module, Any], tuple[Tensor, dict[str, float]]]


def run_stage(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    objective: Objective,
    folder: Path,
    save_every: int = 200,
    report: Callable[[int, dict[str, float]], None] | None = None,
    stop_at: int | None = None,
) -> list[float]:
    """Train `stage` in place and return the losses of the steps run now.

    Resumes from `folder` when it holds a finished checkpoint of the same stage.  `stop_at` ends early at that
    step (for tests and for time limits) with a checkpoint written.  Raises ConfigError when the loss stops
    being a number, naming the step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    freeze_except(model, stage.train)
    chosen = [p for _, p in trainable(model, stage.train)]
    decayed = [p for p in chosen if p.ndim > 1]
    plain = [p for p in chosen if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=stage.lr,
        betas=stage.betas,
    )
    generator = torch.Generator().manual_seed(stage.seed)
    about = {"stage": asdict(stage)}
    start = checkpoint.restore(folder, model, optimiser, generator, about)
    if start == 0:
        torch.manual_seed(stage.seed)
    end = min(stage.steps, stop_at or stage.steps)
    train_mode(model)
    losses: list[float] = []
    forget_after(folder / "log.jsonl", start)
    with (folder / "log.jsonl").open("a") as log:
        for step in range(start, end):
            began = time.perf_counter()
            for group in optimiser.param_groups:
                group["lr"] = stage.rate(step)
            loss, numbers = objective(model, batches(step, generator))
            if not torch.isfinite(loss):
                raise ConfigError(f"stage {stage.name}: the loss is {loss.item()} at step {step}; lower lr={stage.lr}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(chosen, stage.clip or float("inf"))
            optimiser.step()
            losses.append(loss.item())
            line = {
                "loss": losses[-1],
                "lr": stage.rate(step),
                "norm": norm.item(),
                **numbers,
                "seconds": time.perf_counter() - began,
            }
            log.write(json.dumps({"step": step, **line}) + "\n")
            if report is not None:
                report(step, line)
            if (step + 1) % save_every == 0 or step + 1 == end:
                log.flush()
                checkpoint.save(folder, step + 1, model, optimiser, generator, about)
    model.eval()
    return losses


def forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that will be run again, written between the last checkpoint and a kill."""
    if log.exists():
        whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
        lines = [line for line in whole if json.loads(line)["step"] < step]
        log.write_text("".join(line + "\n" for line in lines))
