"""The one training loop: stage in, trained parameters and a log out, resumable at any step.

    data = batches(step, generator)  ->  losses = stage.objective.build(model)(model, batch)  ->  optimiser step

`batches` gives the batch of a step, or a `StepData` of several micro batches; it is a function of the step and of a
seeded generator, so a resumed run sees the samples it would have seen.  The log is `log.jsonl`: a line a step with the
loss and its parts, rate, gradient norm and seconds, of StepData the numbers of samples and tokens, and where operations
are counted "limit", the share of the machine's matrix products.
Traps: losses that are no numbers and gradients that are none stop the run before they reach the parameters, which are
saved as they were; a run is interrupted between two steps only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.data.processor import HOST_FACTS
from polymodal.errors import ConfigError
from polymodal.models.output import total_loss
from polymodal.nn.first_weight import first_weight
from polymodal.train import checkpoint
from polymodal.train.activations import checkpointed
from polymodal.train.average import average_of, follow
from polymodal.train.batches import StepData
from polymodal.train.checkpoint import Run
from polymodal.train.collator import MicroBatch
from polymodal.train.feature_cache import cached_features
from polymodal.train.objectives import CopiesModel, Folds
from polymodal.train.parallel import shard
from polymodal.train.parameters import parameter_groups, prepare, train_mode
from polymodal.train.ranks import ALONE, Ranks, whole
from polymodal.train.recipe import Stage, as_dict
from polymodal.train.utilisation import Utilisation, counted_before, rate_of

Batches = Callable[[int, torch.Generator], Any]
Report = Callable[[int, int, dict[str, float]], None]
LOG, BEST, SKIPPED = "log.jsonl", "best", "skipped.jsonl"
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How steps are run, and what happens beside them.

    precision: of the forward pass; parameters and optimiser keep theirs.
    report(step, steps of the stage, line of the log).  stop() -> whether to end at this step, with a checkpoint.
    evaluate: the built objective -> a score, lower is better, every `evaluate_every` steps and at the end; the
    checkpoint of the lowest is kept in `best/`.  max_skipped: damaged samples in all before the run stops.
    activation_checkpointing: every so many blocks are computed again in the backward pass; 0: none (activations.py).
    feature_cache: where the outputs of frozen encoders are kept (feature_cache.py); None: nowhere.
    same_draws: processes draw the same random numbers, since each computes the whole batch.
    utilisation: count operations, for the share of the machine's matrix products (utilisation.py); one process only.
    ranks: the processes that share the run.  about: what a checkpoint must agree with beside stage and seed.
    """

    precision: str = "float32"
    report: Report | None = None
    stop: Callable[[], bool] = lambda: False
    evaluate: Callable[[nn.Module], float] | None = None
    evaluate_every: int = 0
    max_skipped: int = 100
    activation_checkpointing: int = 0
    feature_cache: Path | None = None
    same_draws: bool = False
    utilisation: bool = False
    ranks: Ranks = ALONE
    about: Mapping[str, Any] = field(default_factory=dict)


def run_stage(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    folder: Path,
    save_every: int = 200,
    stop_at: int | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> list[float]:
    """Train `stage` in place and return the losses of the steps run now.

    Resumes from `folder` when it holds a finished checkpoint of the same stage.  `stop_at` ends early at that
    step (for tests and for time limits) with a checkpoint written.  Raises ConfigError when the loss or the gradients
    stop being numbers, naming step and samples, and for a stage whose rate, schedule or steps were not published.
    """
    options = options or LoopOptions()
    ranks = options.ranks
    folder.mkdir(parents=True, exist_ok=True)
    run = begin(model, stage, seed, ranks, options.same_draws)
    about = {"stage": as_dict(stage), "seed": seed, **options.about}
    start = checkpoint.restore(folder, run, about)
    end = min(stage.steps, stop_at or stage.steps)
    train_mode(model)
    train_mode(run.objective)
    losses: list[float] = []
    for name in (LOG, SKIPPED) if ranks.first else ():
        forget_after(folder / name, start)
    ranks.gathered(None)  # the others count what is left
    skipped, lowest = count_skipped(folder / SKIPPED), lowest_evaluation(folder / LOG)
    usage = utilisation(model, options, folder / LOG)
    lines = folder / LOG if ranks.first else Path(os.devnull)
    with (
        checkpointed(model, options.activation_checkpointing),
        cached_features(model, options.feature_cache),
        lines.open("a") as log,
    ):
        for step in range(start, end):
            began = time.perf_counter()
            data = step_data(batches(step, run.generator))
            damaged = [each for found in ranks.gathered(data.skipped) for each in found]
            skipped += len(damaged)
            if ranks.first:
                note_skipped(folder / SKIPPED, step, damaged)
            require_few(stage, skipped, options.max_skipped, step, damaged)
            with usage.step(step):
                line = safe_step(run, stage, data, step, folder, about, options.precision)
            line |= usage.numbers(line, time.perf_counter() - began)
            losses.append(line["loss"])
            done = step + 1
            ending = bool(ranks.largest(done == end or options.stop()))
            if options.evaluate is not None and (ending or due(done, options.evaluate_every)):
                line["evaluation"] = evaluated(run, options.evaluate)
            log.write(json.dumps({"step": step, **line}) + "\n")
            if options.report is not None and ranks.first:
                options.report(step, stage.steps, line)
            if ending or due(done, save_every):
                log.flush()
                checkpoint.save(folder, done, run, about)
            if "evaluation" in line and ranks.largest(line["evaluation"] <= lowest):
                lowest = line["evaluation"]
                checkpoint.save(folder / BEST, done, run, about, keep=1)
            if ending:
                break
    finish(run, stage)
    return losses


def finish(run: Run, stage: Stage) -> None:
    """The model with what was learned beside it, ready to answer."""
    if isinstance(stage.objective, Folds):
        stage.objective.fold(run.objective, run.model)
    run.model.eval()


def begin(model: nn.Module, stage: Stage, seed: int, ranks: Ranks = ALONE, same_draws: bool = False) -> Run:
    """The model, prepared and shared out among the ranks, its objective, its optimiser and the generator of its data.

    New low-rank paths are the same on all ranks; dropout differs, but for `same_draws`.
    """
    torch.manual_seed(seed)
    prepare(model, stage)
    objective = stage.objective.build(model) if isinstance(stage.objective, CopiesModel) else None
    if ranks.count > 1:
        shard(model)
        if not same_draws:
            torch.manual_seed(seed + ranks.rank)
    objective = (stage.objective.build(model) if objective is None else objective).to(first_weight(model).device)
    beside = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = parameter_groups(model, stage, beside)
    if not groups:
        raise ConfigError(f"stage {stage.name} trains nothing: train={stage.train} and lora={dict(stage.lora)}")
    if beside and ranks.count > 1:
        raise ConfigError(
            f"stage {stage.name}: {stage.objective.name} has parameters of its own; it runs in one process"
        )
    optimiser = stage.optimizer.build(groups)
    generator = torch.Generator().manual_seed(seed)
    average = average_of(model, stage.ema)
    return Run(model=model, objective=objective, optimiser=optimiser, generator=generator, ranks=ranks, average=average)


def utilisation(model: nn.Module, options: LoopOptions, log: Path) -> Utilisation:
    """Counts the operations of a run, which may go on; or nothing."""
    if not options.utilisation or options.ranks.count > 1:
        return Utilisation(rate=None)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    weight = first_weight(model)
    rate = rate_of(weight.device, PRECISIONS[options.precision] or weight.dtype, torch.get_num_threads())
    return Utilisation(rate=rate, counted=counted_before(lines))


def due(done: int, every: int) -> bool:
    """Whether something that is done every so many steps, or never, is done after these."""
    return bool(every) and done % every == 0


class NotANumber(ConfigError):
    """A loss or gradients that are NaN or infinite."""


def safe_step(
    run: Run, stage: Stage, data: StepData, step: int, folder: Path, about: Mapping[str, Any], precision: str
) -> dict[str, float]:
    """`train_step`; where it gives no numbers, the parameters before it are saved.  Raises ConfigError."""
    try:
        return train_step(run, stage, data, step, precision)
    except NotANumber as problem:
        kept = checkpoint.save(folder, step, run, about)
        raise ConfigError(f"{problem}; the parameters before it are in {kept}") from problem


def step_data(given: Any) -> StepData:
    """A batch as the one micro batch of its step."""
    if isinstance(given, StepData):
        return given
    return StepData(micro_batches=(MicroBatch(batch=given, targets=1, tokens=0),))


def train_step(run: Run, stage: Stage, given: Any, step: int, precision: str = "float32") -> dict[str, float]:
    """One optimiser step; returns the loss, its parts by name, the rate and the norm of the gradients."""
    data, ranks = step_data(given), run.ranks
    whole_step = ranks.gathered((data.targets, data.counts))
    targets = sum(each for each, _ in whole_step)
    counts: Counter[str] = sum((each for _, each in whole_step), Counter())
    if not targets:
        raise ConfigError(f"stage {stage.name}: step {step} has nothing to learn; {'; '.join(data.skipped[:3])}")
    rate = stage.rate(step)
    for group in run.optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    run.optimiser.zero_grad(set_to_none=True)
    summed: dict[str, float] = {}
    for each in micro_batches(data, ranks):
        with autocast(run.model, precision):
            parts = run.objective(run.model, placed(each.batch, first_weight(run.model).device))
            shares = {name: each.counts.get(name, 0) / counts[name] if counts[name] else each.targets / targets
                      for name in parts}  # fmt: skip
            # Gradients are averaged over the ranks.
            loss = total_loss({name: part * (shares[name] * ranks.count) for name, part in parts.items()})
        for name, part in parts.items():
            summed[name] = summed.get(name, 0.0) + part.detach().item() * shares[name]
        if loss.requires_grad:  # texts alone reach no connector
            loss.backward()
    gathered = ranks.gathered(summed)
    names = dict.fromkeys(name for each in gathered for name in each)
    summed = {name: sum(each.get(name, 0.0) for each in gathered) for name in names}
    learning = [parameter for group in run.optimiser.param_groups for parameter in group["params"]]
    norm = clipped(learning, stage.optimizer.clip)
    for what, value in (("loss", sum(summed.values())), ("norm of the gradients", norm)):
        if not math.isfinite(value):
            raise NotANumber(
                f"stage {stage.name}: the {what} is {value} at step {step}{named(data)}; lower lr={stage.optimizer.lr}"
            )
    run.optimiser.step()
    if stage.ema is not None:
        follow(run.average, run.optimiser, stage.ema)
    sizes = {"samples": data.samples, "tokens": data.tokens, "targets": data.targets} if data.tokens else {}
    counted = {name: int(ranks.total(value)) for name, value in sizes.items()}
    parts_by_name = summed if len(summed) > 1 else {}
    return {"loss": sum(summed.values()), "lr": rate, "norm": norm, **parts_by_name, **counted}


def clipped(learning: Sequence[Tensor], limit: float | None) -> float:
    """The norm of all gradients together, which are scaled down where it is beyond the limit, and not touched else."""
    gradients = [each.grad for each in learning if each.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    found = whole(norm).item()
    if limit is not None and not found <= limit:
        torch.nn.utils.clip_grads_with_norm_(learning, limit, norm)
    return found


def placed(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors, at any depth, on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: value if name in HOST_FACTS else placed(value, device) for name, value in batch.items()}
    return batch


def micro_batches(data: StepData, ranks: Ranks) -> list[MicroBatch]:
    """Those of this rank, and blank ones until every rank has as many: all run the model equally often."""
    missing = ranks.largest(len(data.micro_batches)) - len(data.micro_batches)
    if missing and data.blank is None:
        raise ConfigError("the ranks have unequal numbers of batches, and these bring no blank one")
    return [*data.micro_batches, *[data.blank for _ in range(missing) if data.blank is not None]]


def named(data: StepData) -> str:
    """The samples of a step for a message."""
    if not data.names:
        return ""
    more = f" and {len(data.names) - 4} more" if len(data.names) > 4 else ""
    return f" (samples {', '.join(data.names[:4])}{more})"


def autocast(model: nn.Module, precision: str) -> Any:
    """The context in which a forward pass computes at a precision.  Raises ConfigError for an unknown one."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not known; expected {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(first_weight(model).device.type, dtype=dtype)


def evaluated(run: Run, evaluate: Callable[[nn.Module], float]) -> float:
    """The score of the model as it is, in evaluation mode; random numbers of training are not touched."""
    state = torch.get_rng_state()
    run.model.eval()
    run.objective.eval()
    try:
        with torch.no_grad():
            return evaluate(run.objective)
    finally:
        torch.set_rng_state(state)
        train_mode(run.model)
        train_mode(run.objective)


def lowest_evaluation(log: Path) -> float:
    """The lowest evaluation that a log holds; infinite where there is none."""
    lines = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    return min((line.get("evaluation", math.inf) for line in lines), default=math.inf)


def note_skipped(path: Path, step: int, damaged: Sequence[str]) -> None:
    """Write down the damaged samples of a step."""
    if damaged:
        with path.open("a") as file:
            file.writelines(json.dumps({"step": step, "sample": each}) + "\n" for each in damaged)


def require_few(stage: Stage, skipped: int, limit: int, step: int, damaged: Sequence[str]) -> None:
    """Raises ConfigError where more samples are damaged than are left out without asking."""
    if skipped > limit:
        raise ConfigError(
            f"stage {stage.name}: {skipped} damaged samples until step {step}, the limit is {limit}; "
            f"the last: {damaged[-1]}"
        )


def count_skipped(path: Path) -> int:
    """How many damaged samples were noted until now."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that will be run again, written between the last checkpoint and a kill."""
    if log.exists():
        whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
        lines = [line for line in whole if json.loads(line)["step"] < step]
        log.write_text("".join(line + "\n" for line in lines))
