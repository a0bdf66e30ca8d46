"""Evaluation of a loaded model on a data file, or of predictions that somebody else made; the folder of a run.

    measure(model, "vqa", "questions.jsonl", out="results")   results/run.json        what was measured, on what
                                                              results/samples.jsonl   a line a sample, as it is done
                                                              results/result.json     metrics, with 95 % intervals
                                                              results/report.html     the worst, with pictures

Samples are answered in batches, by the engine.  Where `out` holds the same run, only those that are missing are
answered; another run there is refused, and what differs is named.
Trap: a sample that cannot be read is left out, counted and named; more than `max_skipped` of them end the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polymodal.api import ray_workers
from polymodal.api.evaluation_record import RESULT, SAMPLES, append, read_lines, save, settle
from polymodal.api.evaluation_report import write_report
from polymodal.api.feature_predictions import FeatureRows
from polymodal.api.model import Model
from polymodal.api.prediction import Predict, predictor
from polymodal.api.ray_workers import work_of
from polymodal.api.run_record import address
from polymodal.data.datasets.listed import ListedSamples, Parquet
from polymodal.data.datasets.opening import open_dataset
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.evaluate.metric import Measured, Scored, all_measured
from polymodal.evaluate.task import Task
from polymodal.evaluate.tasks import task_of
from polymodal.train.feature_files import is_features

Done = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How a model is asked.  prompt: in place of the task's, with fields of the data in braces.  labels: to choose
    from; none: those that occur in the data.  limit: the first samples alone; 0: all.  media_root: what paths in the
    data are relative to; "": the file they stand in.  workers: processes, by Ray where there are several."""

    prompt: str | None = None
    labels: tuple[str, ...] = ()
    max_tokens: int | None = None
    batch: int = 8
    limit: int = 0
    max_skipped: int = 100
    media_root: str = ""
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of it.  skipped: names of samples that could not be read; lacking: metrics left out, and why."""

    task: str
    model: str
    n: int
    metrics: tuple[Measured, ...]
    skipped: tuple[str, ...]
    folder: Path
    lacking: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; a number that is none (a correlation of one sample) is null."""
        metrics = {
            each.name: {"value": _number(each.value), "low": _number(each.low), "high": _number(each.high)}
            for each in self.metrics
        }
        about = {"task": self.task, "model": self.model, "n": self.n, "skipped": list(self.skipped)}
        return about | {"lacking": list(self.lacking), "metrics": metrics}


def measure(
    model: Model | None,
    task: str | Task,
    data: str | Path,
    *,
    out: str | Path,
    predictions: str | Path | None = None,
    options: EvaluateOptions | None = None,
    done: Done = lambda count, total: None,
) -> Evaluation:
    """Measure a model on a data file (.jsonl, .json, .csv, .parquet), or `predictions` that are there already.

    predictions: a file with a record for each of the data, in its order, whose `prediction` is what the task's metrics
    take.  Raises ConfigError for records that lack what the task needs, a model that cannot do it, and another run in
    `out`; UnknownName for an unknown task.
    """
    chosen, options = task_of(task), options or EvaluateOptions()
    if (model is None) == (predictions is None):
        raise ConfigError("measure takes a model, or predictions that are there already")
    rows = rows_of(Path(data), chosen, options, asked=model is not None)
    rows.check()
    given = None if predictions is None else Rows(Path(predictions), None, options)
    name = "predictions" if model is None else model.name
    folder = Path(out)
    record = {
        "polymodal": version("polymodal"),
        "task": chosen.name,
        "model": name if model is None else address(model),
        "data": rows.dataset.manifest(),
        "predictions": None if given is None else given.dataset.manifest(),
        "options": {**asdict(options), "batch": None, "max_skipped": None, "workers": None},
    }
    settle(folder, json.loads(json.dumps(record)))
    lines = read_lines(folder / SAMPLES)
    missing = [index for index in range(rows.count) if index not in lines]
    parts = [missing[first : first + options.batch] for first in range(0, len(missing), options.batch)]
    if model is not None and options.workers > 1:
        answered = ray_workers.answered(work_of(model, chosen, Path(data), folder, options), options.workers, parts)
    else:
        predict = _from_file(rows, given) if model is None else predictor_of(model, chosen, rows, options)
        answered = (list(answer_batch(part, predict)) for part in parts)
    _keep(folder, rows, lines, answered, options, done)
    return _result(folder, chosen, name, rows, lines)


def check_data(
    task: str | Task, data: str | Path, options: EvaluateOptions | None = None, *, asked: bool = True
) -> None:
    """Whether a data file has what a task and its metrics need: a mistake in it costs a moment, not a model's loading.

    asked: whether a model will be, in place of predictions that are there.  Raises ConfigError, naming the record;
    UnknownName for an unknown task.
    """
    rows_of(Path(data), task_of(task), options or EvaluateOptions(), asked).check()


def rows_of(path: Path, task: Task, options: EvaluateOptions, asked: bool = True) -> Rows | FeatureRows:
    """The records of a data file, or the samples of a file of features."""
    return FeatureRows(path, task, options.limit) if is_features(path) else Rows(path, task, options, asked=asked)


class Rows:
    """The records of a data file, each checked when it is read.  task: None for predictions; asked: whether a model is,
    in place of predictions that are there."""

    def __init__(self, path: Path, task: Task | None, options: EvaluateOptions, asked: bool = False) -> None:
        root = Path(options.media_root) if options.media_root else None
        found = open_dataset(path, root)
        if not isinstance(found, ListedSamples | Parquet):
            raise ConfigError(f"{path} is {found.kind}; evaluation reads .jsonl, .json, .csv, .tsv or .parquet")
        self.dataset, self.task, self.asked = found, task, asked
        self.count = min(len(found), options.limit or len(found))

    def __call__(self, index: int) -> Mapping[str, Any]:
        """Raises ConfigError for a record that lacks a field, PromptError for a damaged one."""
        record, name = self.dataset.record(index), self.dataset.name(index)
        if self.task is not None:
            return self.task.check(record, name, self.asked)
        if not isinstance(record, Mapping) or "prediction" not in record:
            raise ConfigError(f"{name} has no prediction")
        return record

    def check(self) -> None:
        """Read all records, before a model is asked about the first.  Raises ConfigError for one that lacks a field or
        that a metric cannot use; a damaged one is left for its turn, to be counted."""
        metrics = () if self.task is None or (self.asked and self.task.gives) else self.task.metrics
        asked = dict.fromkeys(metric.asks for metric in metrics)
        for index in range(self.count):
            try:
                record = self(index)
            except PromptError:
                continue
            try:
                for ask in asked:
                    ask(record)
            except ConfigError as problem:
                raise ConfigError(f"{self.dataset.name(index)}: {problem}") from problem

    def media(self, index: int, field: str) -> Any:
        """A path or bytes.  Raises MediaError."""
        return self.dataset.open_media(self(index)[field])


def predictor_of(model: Model, task: Task, rows: Rows | FeatureRows, options: EvaluateOptions) -> Predict:
    """What answers records of these rows: by the task's verb, or by what a method says of features."""
    return rows.predictor(model) if isinstance(rows, FeatureRows) else predictor(model, task, rows, options)


def _from_file(rows: Rows | FeatureRows, given: Rows | None) -> Predict:
    assert given is not None
    if given.count != rows.count:
        raise ConfigError(
            f"{given.dataset.path} has {given.count} predictions for the {rows.count} samples of {rows.dataset.path}"
        )
    return lambda some: ({"prediction": given(index)["prediction"]} for index in some)


def _keep(
    folder: Path,
    rows: Rows | FeatureRows,
    lines: dict[int, dict[str, Any]],
    answered: Iterable[list[dict[str, Any]]],
    options: EvaluateOptions,
    done: Done,
) -> None:
    """Keep what comes, batch by batch; in one process each line is on the disk before the next batch begins."""
    for found in answered:
        append(folder / SAMPLES, found)
        lines.update((line["index"], line) for line in found)
        skipped = [line["index"] for line in lines.values() if "skipped" in line]
        if len(skipped) > options.max_skipped:
            raise ConfigError(
                f"{len(skipped)} samples could not be read, {options.max_skipped} may be; the last: "
                f"{lines[skipped[-1]]['skipped']}"
            )
        done(len(lines), rows.count)


def answer_batch(some: Sequence[int], predict: Predict) -> Iterator[dict[str, Any]]:
    """Lines of a batch; where one of its samples cannot be read, each is tried by itself."""
    try:
        found = list(predict(some))
    except (MediaError, PromptError) as problem:
        if len(some) == 1:
            yield {"index": some[0], "skipped": str(problem)}
            return
        for index in some:
            yield from answer_batch([index], predict)
        return
    yield from ({"index": index, **each} for index, each in zip(some, found, strict=True))


def _result(
    folder: Path, task: Task, name: str, rows: Rows | FeatureRows, lines: Mapping[int, Mapping[str, Any]]
) -> Evaluation:
    kept = [index for index in range(rows.count) if "skipped" not in lines[index]]
    if not kept:
        raise ConfigError(f"none of the {rows.count} samples could be read; the first: {lines[0]['skipped']}")
    samples = [
        Scored(record={**rows(index), **lines[index].get("record", {})}, prediction=lines[index]["prediction"])
        for index in kept
    ]
    found = Evaluation(
        task=task.name,
        model=name,
        n=len(samples),
        metrics=all_measured(task.metrics_here(), samples),
        skipped=tuple(str(lines[index]["skipped"]) for index in range(rows.count) if "skipped" in lines[index]),
        folder=folder,
        lacking=tuple(f"{metric.name} {metric.lacks()}" for metric in task.metrics if metric.lacks()),
    )
    save(folder / RESULT, json.dumps(found.as_dict(), indent=1))
    questions = [str(lines[index].get("prompt", "")) for index in kept]

    def picture(at: int) -> Any:
        return rows.media(kept[at], "image") if "image" in samples[at].record else None

    write_report(folder / "report.html", task, found, samples, questions, picture)
    return found


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
