"""`train` and `export`: a stage of a model's recipe on a person's own data; the trained model as a checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import DEVICE, DTYPE, THREADS, open_model, with_options
from polymodal.cli.terminal import ends_after_the_step
from polymodal.errors import ConfigError

DATA_HELP = (
    "Samples to learn from: a .jsonl, .json (LLaVA, ShareGPT, OpenAI messages), .csv, .parquet or .tar file, or a "
    "folder of media with captions, or features (.pkl, .npz, .csv; FILE@SPLIT); repeat it for more."
)


OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "evaluate": (
        Annotated[
            list[str] | None,
            typer.Option("--evaluate", help="Held-out samples; the checkpoint of their lowest loss is kept."),
        ],
        None,
    ),
    "evaluate_every": (Annotated[int, typer.Option(min=0, help="Steps between evaluations; 0: at the end.")], 0),
    "weights": (
        Annotated[str | None, typer.Option(metavar="W,W...", help="Shares of the data sets in the mixture.")],
        None,
    ),
    "packing": (Annotated[bool, typer.Option("--packing", help="Put several conversations in a row.")], False),
    "micro_batch": (
        Annotated[int | None, typer.Option(min=1, help="Rows a forward pass; gradients are accumulated over a step.")],
        None,
    ),
    "workers": (Annotated[int, typer.Option(min=0, help="Processes that read and prepare samples.")], 0),
    "save_every": (Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")], 200),
    "max_skipped": (
        Annotated[int, typer.Option(min=0, help="Damaged samples that are left out before the run stops.")],
        100,
    ),
    "media_root": (
        Annotated[Path | None, typer.Option(help="What paths in the data are relative to; else the file they are in.")],
        None,
    ),
    "question": (Annotated[str, typer.Option(help="What is asked of media that come with a caption alone.")], ""),
    "activation_checkpointing": (
        Annotated[
            int, typer.Option(min=0, help="Compute every N-th block again in the backward pass: less memory; 1: all.")
        ],
        0,
    ),
    "feature_cache": (
        Annotated[
            Path | None, typer.Option(help="Keep what frozen encoders say of each item in this folder: computed once.")
        ],
        None,
    ),
    "codec": (
        Annotated[str, typer.Option(help="The model that turns a picture into ids, for stages that learn those.")],
        "",
    ),
    "log_to": (
        Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="tensorboard, wandb or trackio, where installed; repeat it for more."),
        ],
        None,
    ),
    "seed": (Annotated[int, typer.Option(help="Of the order of samples, of dropout and of new weights.")], 0),
}
PLACE: Mapping[str, tuple[Any, Any]] = {
    "device": (DEVICE, "auto"),
    "dtype": (DTYPE, "float32"),
    "threads": (THREADS, None),
}


def made(
    evaluate: list[str] | None,
    weights: str | None,
    media_root: Path | None,
    feature_cache: Path | None,
    log_to: list[str] | None,
    **given: Any,
) -> tuple[Any, Any, Sequence[str]]:
    """Where the model goes, the `TrainOptions` of the command line, and the trackers that get its numbers."""
    import polymodal as pm

    place = {name: given.pop(name) for name in PLACE}
    options = pm.TrainOptions(
        evaluation_data=tuple(evaluate or ()),
        weights=None if weights is None else numbers(weights),
        media_root="" if media_root is None else str(media_root),
        feature_cache="" if feature_cache is None else str(feature_cache),
        **given,
    )
    return place, options, log_to or ()


@partial(with_options, keyword="how", options={**OPTIONS, **PLACE}, make=partial(partial, made))
def train(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="An id, a checkpoint folder, or your own ./system.py.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help=DATA_HELP)] = None,
    stage: Annotated[str | None, typer.Option(help="A stage of the recipe; `polymodal show ID` lists them.")] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change the stage: optimizer.lr=2e-5, budget.steps=300 ..."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the run.")] = Path("run"),
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    json: JSON = False,
    *,
    how: Callable[[], tuple[Any, Any, Sequence[str]]],
) -> int:
    """Train a model by a stage of its recipe on your own data; resumable at any step.

    The folder of the run holds the recipe, the data's hashes, log.jsonl, checkpoints, report.html and plots.png.
    Ctrl-C or SIGTERM ends after the step under way, with a checkpoint; --resume RUN goes on, as if it had not stopped.

    Over several processes or machines: torchrun --nproc-per-node 2 -m polymodal train ...
    """
    import polymodal as pm
    from polymodal.cli.threads import set_threads

    if resume is not None and (model is not None or data):
        raise ConfigError("train: --resume takes a run alone; it knows its model, stage and data")
    if resume is None and (model is None or not data):
        raise ConfigError("train needs a model and data: polymodal train mini --stage instruct --data talks.jsonl")
    began, (place, options, trackers) = time.perf_counter(), how()
    first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun, one speaks
    if place["device"] == "auto" and "LOCAL_RANK" in os.environ:
        import torch

        place["device"] = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    with ends_after_the_step() as stop, numbers_told(trackers if first else (), resume or out) as line:
        if resume is not None:
            set_threads(place["threads"])
            loaded, losses = pm.resume(resume, device=place["device"], report=line, stop=stop)
        else:
            assert model is not None and data is not None
            if pm.can_begin(model):
                model = str(pm.begin(model, f"{out}.start", data, seed=options.seed))
                typer.echo(f"no weights were released: it begins from random ones, in {model}", err=True)
            loaded = open_model(model, **place)
            losses = pm.fit(
                loaded, data, out=out, stage=stage, settings=set or [], options=options, report=line, stop=stop
            )
        stopped = stop()
    if not first:
        return 130 if stopped else 0
    return finish(resume or out, loaded.name, losses, time.perf_counter() - began, stopped, json)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run of `polymodal train`.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the checkpoint goes.")],
    best: Annotated[
        bool, typer.Option("--best", help="The checkpoint of the lowest evaluation, not the newest.")
    ] = False,
    ema: Annotated[bool, typer.Option("--ema", help="The running mean of the weights (a stage with ema).")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The low-rank paths alone, as a PEFT folder.")] = False,
) -> None:
    """Write the model of a run as a checkpoint, which `polymodal ask --model FOLDER` and `pm.load` read."""
    import polymodal as pm
    from polymodal.cli.output import waiting

    with waiting(f"writing {folder}"):
        written = pm.export(run, folder, best=best, ema=ema, adapter=adapter)
    use = f"--model MODEL --adapter {written}" if adapter else f"--model {written}"
    typer.echo(f"wrote {written}; polymodal ask FILE QUESTION {use} uses it")


def finish(folder: Path, name: str, losses: list[float], seconds: float, stopped: bool, json: bool) -> int:
    """What came of it; exit code 130 where a signal ended the run."""
    from polymodal.cli.output import counted, print_json
    from polymodal.train.report import read_log

    log = read_log(folder)
    steps = log[-1]["step"] + 1 if log else 0
    scores = [line["evaluation"] for line in log if line.get("evaluation") is not None]
    if json:
        found = {
            "model": name,
            "run": str(folder),
            "steps": steps,
            "steps_now": len(losses),
            "first_loss": log[0]["loss"] if log else None,
            "last_loss": log[-1]["loss"] if log else None,
            "best_evaluation": min(scores) if scores else None,
            "skipped": sum(1 for _ in (folder / "skipped.jsonl").open()) if (folder / "skipped.jsonl").exists() else 0,
            "seconds": seconds,
            "stopped": stopped,
        }
        print_json(found)
    elif not losses:
        typer.echo(f"{folder} is finished: {counted(steps, 'step')}; polymodal export {folder} FOLDER writes the model")
    else:
        said = f", evaluation {scores[-1]:.4f} (lowest {min(scores):.4f})" if scores else ""
        typer.echo(
            f"{counted(len(losses), 'step')} in {seconds:.0f} s, loss {losses[0]:.4f} -> {losses[-1]:.4f}{said}; "
            f"see {folder / 'report.html'}"
        )
        typer.echo(
            f"stopped at step {steps}; polymodal train --resume {folder} goes on"
            if stopped
            else f"polymodal export {folder} FOLDER writes the model"
        )
    return 130 if stopped else 0


def numbers(text: str) -> tuple[float, ...]:
    """ "3,1" -> (3.0, 1.0)."""
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        raise ConfigError(f"--weights {text}: expected numbers with commas between, as 3,1") from None


@contextmanager
def numbers_told(trackers: Sequence[str], folder: Path) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """Yields report(step, steps, line): a line for people, and the numbers for trackers."""
    from polymodal.train.trackers import tracked

    with tracked(trackers, folder) as track, live_line() as say:

        def report(step: int, steps: int, line: dict[str, float]) -> None:
            say(step, steps, line)
            track(step, steps, line)

        yield report


@contextmanager
def live_line() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """Yields report(step, steps, line): a status line at a terminal, else a plain line on stderr now and then."""
    import sys

    from polymodal.cli.output import console, status_line

    began, first, spoke = time.perf_counter(), -1, 0.0

    def words(step: int, total: int, line: dict[str, float]) -> str:
        nonlocal first
        first = step if first < 0 else first
        each = (time.perf_counter() - began) / (step - first + 1)
        left = f", {clock(each * (total - step - 1))} left"
        speed = f", {line['tokens'] / line['seconds']:,.0f} tokens/s" if line.get("tokens") else ""
        limit = f" ({line['limit']:.0%} of the machine's limit)" if line.get("limit") else ""
        score = f", evaluation {line['evaluation']:.4f}" if line.get("evaluation") is not None else ""
        return f"step {step + 1} of {total}: loss {line['loss']:.4f}{score}{speed}{limit}{left}"

    if sys.stderr.isatty():
        with status_line("reading the data") as update:
            yield lambda step, total, line: update(words(step, total, line))
        return
    printer = console(error=True)

    def say(step: int, total: int, line: dict[str, float]) -> None:
        nonlocal spoke
        now = time.perf_counter()
        if now - spoke > 10 or line.get("evaluation") is not None:
            spoke = now
            printer.print(words(step, total, line))

    yield say


def clock(seconds: float) -> str:
    """75 -> "1:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
