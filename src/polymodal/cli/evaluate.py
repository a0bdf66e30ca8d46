"""`evaluate`: a model, or predictions that are there, measured on a data file by a task's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL_HELP, Load, loads_a_model, with_options
from polymodal.errors import ConfigError

HOW: Mapping[str, tuple[Any, Any]] = {
    "prompt": (
        Annotated[
            str | None, typer.Option(help="What is asked, with fields of the data in braces, in place of the task's.")
        ],
        None,
    ),
    "labels": (
        Annotated[
            str | None, typer.Option(metavar="A,B,...", help="Labels to choose from; by default those of the data.")
        ],
        None,
    ),
    "limit": (Annotated[int, typer.Option(min=0, help="The first samples alone; 0: all.")], 0),
    "batch": (Annotated[int, typer.Option(min=1, help="Samples that are answered together.")], 8),
    "workers": (
        Annotated[int, typer.Option(min=1, help="Processes that answer, each with the model; several need Ray.")],
        1,
    ),
    "max_skipped": (
        Annotated[int, typer.Option(min=0, help="Samples that cannot be read before the run stops.")],
        100,
    ),
    "media_root": (
        Annotated[Path | None, typer.Option(help="What paths in the data are relative to; else the file they are in.")],
        None,
    ),
}


def made(labels: str | None, media_root: Path | None, **given: Any) -> Any:
    """The `EvaluateOptions` of the command line."""
    import polymodal as pm

    return pm.EvaluateOptions(
        labels=tuple(each.strip() for each in (labels or "").split(",") if each.strip()),
        media_root="" if media_root is None else str(media_root),
        **given,
    )


@loads_a_model
@partial(with_options, keyword="how", options=HOW, make=partial(partial, made))
def evaluate(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP)] = None,
    task: Annotated[str | None, typer.Option(help="What is measured; without it the tasks are listed.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Records with what the task needs: .jsonl, .json, .csv, .tsv, .parquet; features."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Records with a `prediction` each, in place of a model's answers.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of results; the same run goes on in it.")] = Path("evaluation"),
    json: JSON = False,
    *,
    load: Load,
    how: Callable[[], Any],
) -> None:
    """Measure a model on your own data: numbers with 95 % intervals, every answer, a page with the worst.

    polymodal evaluate mini --task vqa --data questions.jsonl
    """
    import polymodal as pm
    from polymodal.cli.output import print_json, progress

    if task is None:
        print_tasks(json)
        return
    if data is None:
        raise ConfigError(f"evaluate needs data: --data FILE; {fields_of(task)}")
    fields_of(task)  # an unknown task costs a moment, not a download
    if (model is None) == (predictions is None):
        raise ConfigError("evaluate takes a MODEL, or --predictions FILE")
    options = how()
    pm.check_data(task, data, options, asked=model is not None)  # and so does a mistake in the data
    opened = None if model is None else load(model)
    with progress("measuring", 1) as step:
        found = pm.measure(
            opened, task, data, out=out, predictions=predictions, options=options,
            done=lambda count, total: step(0, f"{count} of {total} samples"),
        )  # fmt: skip
    if json:
        print_json({**found.as_dict(), "out": str(out)})
        return
    for each in found.metrics:
        typer.echo(f"{each.name:<24} {each.value:.4g}  ({each.low:.4g} to {each.high:.4g})")
    for why in found.lacking:
        typer.echo(f"not measured: {why}")
    left_out = f", {len(found.skipped)} could not be read" if found.skipped else ""
    typer.echo(f"{found.n} samples{left_out}; see {out / 'report.html'}")


def fields_of(name: str) -> str:
    """What a record of a task holds, in words.  Raises UnknownName."""
    from polymodal.evaluate.tasks import task_of

    task = task_of(name)
    also = f"; for a model also {', '.join(task.needs)}" if task.needs else ""
    return f"a record of {task.name} has {', '.join((*task.media, *task.fields))}{also}"


def print_tasks(json: bool) -> None:
    """The tasks, what their records hold, and what is measured."""
    from rich.table import Table

    from polymodal.cli.output import console, print_json
    from polymodal.evaluate.tasks import TASKS

    if json:
        print_json([
            {"task": task.name, "summary": task.summary, "fields": [*task.media, *task.fields], "needs": [*task.needs],
             "model": bool(task.verb), "metrics": [metric.name for metric in task.metrics]}
            for task in TASKS.values()
        ])  # fmt: skip
        return
    table = Table("task", "a record holds", "metrics", "by", box=None)
    for task in TASKS.values():
        metrics = ", ".join(metric.name for metric in task.metrics)
        table.add_row(task.name, ", ".join((*task.media, *task.fields)), metrics, task.verb or "--predictions")
    console().print(table)
