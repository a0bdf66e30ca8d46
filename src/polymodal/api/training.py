"""Training of a loaded model by a stage of its recipe, on a person's own data; the folder of a run.

    fit(model, ["talks.jsonl"], stage="instruct", out="run")     run/run.json      what was asked for, data hashed
                                                                   run/log.jsonl     a line a step
                                                                   run/step-...      checkpoints, run/best
                                                                   run/report.html, run/plots.png
    resume("run")       goes on, bit for bit          export("run", "folder")     a checkpoint that `pm.load` reads

Trap: a run names its model by address and its data by path; both must still be what they were.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from polymodal.api.load import load
from polymodal.api.model import Model
from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.processor import Processor
from polymodal.errors import ConfigError, UnknownName
from polymodal.files import read_json
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import total_loss
from polymodal.nn.lora import merge_lora
from polymodal.train import checkpoint, loop, report
from polymodal.train.batches import BatchOptions, StepBatches, StepLoader, step_batches
from polymodal.train.objectives import LanguageModeling
from polymodal.train.parameters import prepare
from polymodal.train.recipe import DataSource, Stage, as_dict
from polymodal.train.settings import changed

RECORD = "run.json"
Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a stage is run, beside what its record says.

    packing: several conversations in a row of `budget.max_length` tokens.  micro_batch: rows a forward pass at most;
    None: all of a step.  workers: processes that prepare batches.  evaluation_data: held-out samples, whose
    mean loss is taken every `evaluate_every` steps (0: at the end alone).  weights: of the data sets; None: by their
    sizes.  media_root: what paths in the data are relative to; "": the file they stand in.  question: asked of media
    that come with a caption alone.
    """

    packing: bool = False
    micro_batch: int | None = None
    workers: int = 0
    save_every: int = 200
    evaluation_data: tuple[str, ...] = ()
    evaluate_every: int = 0
    max_skipped: int = 100
    seed: int = 0
    weights: tuple[float, ...] | None = None
    media_root: str = ""
    question: str = ""


def stage_of(model: Model, name: str | None) -> Stage:
    """A stage of the model's recipe; None: the only one.  Raises UnknownName or ConfigError, listing the stages."""
    recipe = model.system.recipe
    names = [stage.name for stage in recipe]
    if not names:
        raise ConfigError(f"{model.system.id} has no recipe; write a system file with the stages to train")
    if name is None and len(names) == 1:
        return recipe[0]
    if name is None:
        raise ConfigError(f"{model.system.id} has the stages {', '.join(names)}; say which with --stage")
    if name not in names:
        raise UnknownName(f"{model.system.id} has no stage {name!r}; it has {', '.join(names)}")
    return recipe[names.index(name)]


def fit(
    model: Model,
    data: Sequence[str | Path],
    *,
    out: str | Path,
    stage: str | Stage | None = None,
    settings: Sequence[str] = (),
    options: TrainOptions | None = None,
    report: loop.Report | None = None,
    stop: Stop = lambda: False,
) -> list[float]:
    """Train a loaded model in place and write the folder of the run; returns the losses of the steps run now.

    stage: its name in the recipe, or a `Stage`.  settings: "path=value" changes of it (`train/settings.py`).
    Where `out` holds a run of the same stage, model and data, it goes on.  Raises ConfigError for an unknown stage or
    setting, for data that is none, and when another run lies in `out`.
    """
    options = options or TrainOptions()
    name = stage.name if isinstance(stage, Stage) else stage
    chosen = changed(stage if isinstance(stage, Stage) else stage_of(model, name), list(settings))
    require_trainable(model, chosen)
    mixture = mixture_of(data, options)
    chosen = with_data(chosen, data, mixture)
    record = {
        "polymodal": version("polymodal"),
        "torch": torch.__version__,
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": address(model),
        "weights": fingerprint(model),
        "stage": as_dict(chosen),
        "settings": list(settings),
        "data": [each.manifest() for each in mixture.datasets],
        "options": asdict(options),
    }
    folder = Path(out)
    settle(folder, json.loads(json.dumps(record)))
    return run(model, chosen, mixture, folder, options, report, stop)


def resume(
    folder: str | Path, report: loop.Report | None = None, stop: Stop = lambda: False
) -> tuple[Model, list[float]]:
    """Go on with a run from its newest checkpoint: the model, and the losses of the steps run now."""
    record = record_of(Path(folder))
    model = load(record["model"])
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record["options"].items()
    }
    losses = fit(
        model,
        [each["path"] for each in record["data"]],
        out=folder,
        stage=record["stage"]["name"],
        settings=record["settings"],
        options=TrainOptions(**given),
        report=report,
        stop=stop,
    )
    return model, losses


def export(folder: str | Path, target: str | Path, *, best: bool = False) -> Path:
    """Write the model of a run as a checkpoint that `pm.load` reads, low-rank paths added to the weights.

    best: of the lowest evaluation, else the newest.  Raises ConfigError for a run without a checkpoint.
    """
    run_folder = Path(folder)
    record = record_of(run_folder)
    found = checkpoint.complete(run_folder / loop.BEST if best else run_folder)
    if not found:
        raise ConfigError(f"{run_folder} has no {'best ' if best else ''}checkpoint yet")
    model = load(record["model"])
    stage = changed(stage_of(model, record["stage"]["name"]), record["settings"])
    prepare(model.module, stage)
    learned, stored = checkpoint.learned(model.module), load_file(found[-1] / "model.safetensors")
    if learned.keys() != stored.keys():
        odd = ", ".join(sorted(learned.keys() ^ stored.keys())[:3])
        raise ConfigError(f"{found[-1]} holds other parameters than its stage trains, for example {odd}")
    with torch.no_grad():
        for name, tensor in learned.items():
            tensor.copy_(stored[name])
    merge_lora(model.module)
    return model.save(target)


def require_trainable(model: Model, stage: Stage) -> None:
    """Raises ConfigError for a model or an objective that conversations do not train."""
    if not isinstance(model.processor, Processor) or not isinstance(model.module, MultimodalLM):
        raise ConfigError(f"{model.name} does not learn from conversations; it offers {', '.join(model.can)}")
    if not isinstance(stage.objective, LanguageModeling):
        raise ConfigError(
            f"stage {stage.name} learns by {stage.objective.name}, which needs batches of its own; data files of "
            f"conversations train stages of {LanguageModeling.name}"
        )
    if stage.budget.batch is None:
        raise ConfigError(f"stage {stage.name} has no published batch size; give budget.batch")


def mixture_of(paths: Sequence[str | Path], options: TrainOptions) -> Mixture:
    """The data sets, opened and mixed."""
    root = Path(options.media_root) if options.media_root else None
    datasets = [open_dataset(Path(each), root, options.question) for each in paths]
    return Mixture(datasets, options.weights, options.seed)


def with_data(stage: Stage, paths: Sequence[str | Path], mixture: Mixture) -> Stage:
    """The stage with the data it is trained on now in place of the published."""
    kind = stage.data[0].kind if stage.data else "conversations"
    sources = tuple(
        DataSource(name=Path(path).name, kind=kind, samples=len(each))
        for path, each in zip(paths, mixture.datasets, strict=True)
    )
    return replace(stage, data=sources)


def address(model: Model) -> str:
    """What `load` finds the model by again: its system file, its folder, or its name in the catalogue."""
    place = model.code or model.path
    return model.name if place is None else str(place.absolute())


def fingerprint(model: Model) -> str:
    """A hash of all weights before they are trained: a run goes on only from the weights it began with."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.module.state_dict().items()):
        bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        whole = len(bits) // 8 * 8
        folded = int(np.bitwise_xor.reduce(bits[:whole].view(np.uint64))) if whole else 0
        digest.update(f"{name} {list(tensor.shape)} {folded} {bits[whole:].tobytes().hex()}\0".encode())
    return digest.hexdigest()


def settle(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a new run, or make sure that the one in `folder` is the same."""
    if not (folder / RECORD).exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is not empty and holds no run; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False))
        except OSError as problem:
            raise ConfigError(f"cannot write into {folder}: {problem.strerror}") from problem
        return
    old = record_of(folder)
    kept = {key: value for key, value in old.items() if key not in ("started", "polymodal", "torch")}
    new = {key: value for key, value in record.items() if key in kept}
    if different := list(checkpoint.differences(kept, new)):
        raise ConfigError(f"{folder} holds another run ({'; '.join(different[:4])}); name another folder")


def record_of(folder: Path) -> dict[str, Any]:
    """run.json of a run.  Raises ConfigError where there is none."""
    if not (folder / RECORD).is_file():
        raise ConfigError(f"{folder} holds no run of `polymodal train`: there is no {RECORD} in it")
    record = read_json(folder / RECORD, error=ConfigError)
    needed = ("model", "stage", "settings", "data", "options")
    if not isinstance(record, dict) or (missing := [key for key in needed if key not in record]):
        lacks = "" if not isinstance(record, dict) else f": it lacks {', '.join(missing)}"
        raise ConfigError(f"{folder / RECORD} is damaged{lacks}")
    return record


def run(
    model: Model,
    stage: Stage,
    mixture: Mixture,
    folder: Path,
    options: TrainOptions,
    watcher: loop.Report | None,
    stop: Stop,
) -> list[float]:
    """The steps that are left, and the report."""
    assert isinstance(model.processor, Processor) and stage.budget.batch is not None
    batch_options = BatchOptions(
        batch=stage.budget.batch,
        max_length=stage.budget.max_length or model.processor.max_length,
        packing=options.packing,
        micro_batch=options.micro_batch,
    )
    batches = step_batches(model.processor, mixture, batch_options)
    loader = StepLoader(batches, stage.steps, options.workers)
    evaluate = None
    if options.evaluation_data:
        held_out = Mixture(mixture_of(options.evaluation_data, replace(options, weights=None)).datasets, shuffle=False)
        evaluate = evaluation(model, stage, replace(batches, mixture=held_out))
    loop_options = loop.LoopOptions(
        precision=stage.budget.precision or "float32",
        report=watcher,
        stop=stop,
        evaluate=evaluate,
        evaluate_every=options.evaluate_every,
        max_skipped=options.max_skipped,
        about={"packing": options.packing, "micro_batch": options.micro_batch},
    )
    try:
        return loop.run_stage(
            model.module,
            stage,
            lambda step, generator: loader(step),
            folder,
            save_every=options.save_every,
            seed=options.seed,
            options=loop_options,
        )
    finally:
        model.clear_caches()
        if (folder / loop.LOG).exists():
            report.write_report(folder)


def evaluation(model: Model, stage: Stage, batches: StepBatches) -> Callable[[], float]:
    """() -> the mean loss of a learned token over all samples of the evaluation data, once through."""
    size = batches.mixture.epoch_size
    once = replace(batches, options=replace(batches.options, positions=size))

    def evaluate() -> float:
        objective = stage.objective.build(model.module)
        total, targets = 0.0, 0
        for step in range(math.ceil(size / batches.options.batch)):
            for each in once[step].micro_batches:
                with loop.autocast(model.module, stage.budget.precision or "float32"):
                    total += total_loss(objective(model.module, each.batch)).item() * each.targets
                targets += each.targets
        if not targets:
            raise ConfigError("the evaluation data has nothing to learn from: every sample of it is damaged")
        return total / targets

    return evaluate
