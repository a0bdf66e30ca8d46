"""Evaluation in several processes: Ray Data deals batches of samples to workers, each with the model loaded anew.

    answered(work, workers, parts) -> the lines of each part, in the order of `parts`

A part is the batch that one process would answer together, so that padding and with it every number is the same.  The
workers are actors of the cluster that RAY_ADDRESS names or that runs here, else of a new one on this machine.
A worker that dies is started again by Ray and its part dealt anew; a mistake in data or model comes back as the error
that it is in one process.  Ray would try for ever: what is under way is a file in `marks`, which a worker that dies
leaves behind, and after `RETRIES` more than one such file the run ends and says which samples they were.
Traps: every machine of a cluster must see the same files, of the model and of the data, at the same paths; each worker
holds a whole model.  What was changed in memory (an attached adapter, a quantised copy) is not what workers load: the
hash of the weights tells, and they refuse.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal import errors
from polymodal.errors import ConfigError, PolymodalError
from polymodal.evaluate.task import Task
from polymodal.evaluate.tasks import TASKS

if TYPE_CHECKING:
    from polymodal.api.evaluation import EvaluateOptions

RETRIES = 3
MARKS = "workers"
Lines = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker needs.  model: its address; weights: the hash of them; marks: the folder for what is under way."""

    model: str
    device: str
    dtype: str
    weights: str
    task: Task | str
    data: str
    marks: str
    options: EvaluateOptions


def work_of(model: Any, task: Task, data: Path, out: Path, options: EvaluateOptions) -> Work:
    """Raises ConfigError for tasks that compare all samples at once."""
    from polymodal.api.run_record import address, fingerprint
    from polymodal.nn.first_weight import first_weight

    if task.verb == "match":
        raise ConfigError(f"{task.name} compares all samples at once, in one process; leave --workers out")
    first = first_weight(model.module)
    return Work(
        model=address(model),
        device=first.device.type,
        dtype=str(first.dtype).removeprefix("torch."),
        weights=fingerprint(model),
        task=task.name if TASKS.get(task.name) is task else task,
        data=str(data),
        marks=str(out / MARKS),
        options=options,
    )


def answered(work: Work, workers: int, parts: Sequence[Sequence[int]]) -> Iterator[Lines]:
    """The lines of each part.  Raises ConfigError without Ray, and where a worker died too often."""
    if not parts:
        return
    with cluster(workers) as (ray, each), _folder(Path(work.marks)):
        items = [{"part": json.dumps(list(part))} for part in parts]
        dealt = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Worker,
            fn_constructor_args=(work, workers),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            **each,
        )
        try:
            for row in dealt.iter_rows():
                yield told(json.loads(row["lines"]))
        except ray.exceptions.RayError as problem:
            why = str(problem).strip().splitlines()[-1][:200]
            raise ConfigError(f"a worker failed ({why}); what was answered before is kept") from problem


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """An empty folder, gone afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def under_way(marks: Path, name: str, most: int, what: str) -> Iterator[None]:
    """Mark that this is begun until it ends in any way but the death of its process.

    Raises ConfigError where more than `most` such marks were left.
    """
    left = len(list(marks.glob(f"{name}.*")))
    if left > most:
        raise ConfigError(
            f"{what}: a worker ended {left} times; memory may be short, for a model in each: try fewer --workers"
        )
    mark = marks / f"{name}.{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def told(found: dict[str, Any]) -> Any:
    """What a worker gives ("lines"), or the error that it met."""
    if "error" in found:
        kind = getattr(errors, found["error"], PolymodalError)
        raise kind(found["message"])
    return found["lines"]


class Worker:
    """An actor: a loaded model, and the records."""

    def __init__(self, work: Work, workers: int) -> None:
        self.problem: PolymodalError | None = None
        self.work = work
        try:
            with under_way(Path(work.marks), "load", workers + RETRIES, f"loading {work.model}"):
                self._open(work)
        except PolymodalError as problem:
            self.problem = problem

    def _open(self, work: Work) -> None:
        from polymodal.api.evaluation import predictor_of, rows_of
        from polymodal.api.load import load
        from polymodal.api.run_record import fingerprint
        from polymodal.evaluate.tasks import task_of

        model = load(work.model, device=work.device, dtype=work.dtype)
        if fingerprint(model) != work.weights:
            raise ConfigError(
                f"{work.model} as workers load it has other weights than the model that was given; save that one to a "
                "folder and give the folder, or leave --workers out"
            )
        task = task_of(work.task)
        self.predict = predictor_of(model, task, rows_of(Path(work.data), task, work.options), work.options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = []
        for part in batch["part"]:
            try:
                said: dict[str, Any] = {"lines": self._answered(json.loads(str(part)))}
            except PolymodalError as problem:
                said = {"error": type(problem).__name__, "message": str(problem)}
            found.append(json.dumps(said))
        return {"lines": found}

    def _answered(self, part: list[int]) -> Lines:
        from polymodal.api.evaluation import answer_batch

        if self.problem is not None:
            raise self.problem
        named = f"samples {part[0] + 1} to {part[-1] + 1} of {self.work.data}"
        with under_way(Path(self.work.marks), f"part{part[0]}", RETRIES, named):
            return list(answer_batch(part, self.predict))


@contextmanager
def cluster(workers: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Ray with a cluster, and what each worker takes of it.  A cluster that was here before goes on afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--workers needs the package ray: pip install 'polymodal[ray]'") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing it has set its own
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        there = ray.cluster_resources()
        if there.get("CPU", 0) < workers:
            raise ConfigError(
                f"--workers {workers}: the cluster has {there.get('CPU', 0):g} CPUs, one is needed for each"
            )
        yield ray, {"num_cpus": 1, "num_gpus": 1 if there.get("GPU", 0) >= workers else 0}
    finally:
        ray.shutdown()
