"""Training of a loaded model by a stage of its recipe, on a person's own data; the folder of a run.

fit(model, ["talks.jsonl"], stage="instruct", out="run")       run/run.json      api/run_record.py
                                                               run/log.jsonl     a line a step
                                                               run/step-...      checkpoints, run/best
                                                               run/report.html, run/plots.png
resume("run")       goes on, bit for bit          export("run", "folder")     a checkpoint that `pm.load` reads
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polymodal.api.load import load
from polymodal.api.model import Model
from polymodal.api.run_record import loaded, made, record_of, settle
from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.opening import open_dataset
from polymodal.errors import ConfigError, UnknownName
from polymodal.models.output import total_loss
from polymodal.nn.first_weight import first_weight
from polymodal.nn.lora import merge_lora
from polymodal.train import checkpoint, loop, report
from polymodal.train.batches import BatchOptions, StepLoader, Steps
from polymodal.train.collator import Collates, Collator, Learner, require_kind
from polymodal.train.feature_batches import CountsSamples
from polymodal.train.feature_files import FeatureDataset, is_features
from polymodal.train.objectives import Folds, LanguageModeling
from polymodal.train.parameters import prepare
from polymodal.train.ranks import Ranks, started
from polymodal.train.recipe import DataSource, Stage
from polymodal.train.settings import changed

Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a stage is run, beside what its record says.

    packing: several conversations in a row of `budget.max_length` tokens.  micro_batch: rows a forward pass at most;
    None: all of a step, or rows of like length together where that costs less.  workers: processes that prepare
    batches.  evaluation_data: held-out samples, whose mean loss is taken every `evaluate_every` steps (0: at the end
    alone).  weights: of the data sets; None: by their sizes.  media_root: what paths in the data are relative to; "":
    the file they stand in.  question: asked of media that come with a caption alone.  activation_checkpointing: every
    so many blocks keep their inputs alone and are computed again in the backward pass (0: none), for less memory.
    codec: address of the model that turns a picture into the ids of its patches, for objectives that learn those and
    data that does not bring them.  feature_cache: a folder in which what frozen encoders say of each item is kept, so
    that it is computed once; runs may share it.
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
    activation_checkpointing: int = 0
    codec: str = ""
    feature_cache: str = ""

    def with_whole_paths(self) -> TrainOptions:
        """The same from whatever folder the run is gone on with."""
        return replace(
            self,
            evaluation_data=tuple(str(Path(each).absolute()) for each in self.evaluation_data),
            media_root=str(Path(self.media_root).absolute()) if self.media_root else "",
            codec=str(Path(self.codec).absolute()) if self.codec and Path(self.codec).exists() else self.codec,
            feature_cache=str(Path(self.feature_cache).absolute()) if self.feature_cache else "",
        )


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
    Where `out` holds a run of the same stage, model and data, it goes on.  In processes that torchrun started the
    model is shared out among them, and stays so; batches are of all of them together.  Raises ConfigError for an
    unknown stage or setting, for data that is none, and when another run lies in `out`.
    """
    options = (options or TrainOptions()).with_whole_paths()
    name = stage.name if isinstance(stage, Stage) else stage
    chosen = changed(stage if isinstance(stage, Stage) else stage_of(model, name), list(settings))
    if chosen.budget.batch is None:
        raise ConfigError(f"stage {chosen.name} has no published batch size; give budget.batch")
    mixture = mixture_of(data, options)
    learner = learner_of(model, chosen, options)
    require_kind(mixture, collator_of(model, chosen, learner), learns(chosen))
    chosen = with_data(chosen, data, mixture)
    work = Work(model=model, stage=chosen, mixture=mixture, learner=learner)
    record = made(model, chosen, settings, mixture, options)
    folder = Path(out)
    with started() as ranks:
        problem: ConfigError | None = None
        if ranks.first:
            try:
                settle(folder, record)
            except ConfigError as error:
                problem = error
        ranks.agree(problem)
        return run(work, folder, options, report, stop, ranks)


def resume(
    folder: str | Path, *, device: str = "auto", report: loop.Report | None = None, stop: Stop = lambda: False
) -> tuple[Model, list[float]]:
    """Go on with a run from its newest checkpoint: the model, and the losses of the steps run now.

    A run of a `Stage` that is in no recipe goes on by `fit` with the same arguments.
    """
    record = record_of(Path(folder))
    model = loaded(record, device)
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


def export(
    folder: str | Path, target: str | Path, *, best: bool = False, ema: bool = False, adapter: bool = False
) -> Path:
    """Write the model of a run as a checkpoint that `pm.load` reads, low-rank paths added to the weights.

    best: of the lowest evaluation, else the newest.  ema: the running mean of the weights, of a stage with `ema`.
    adapter: the low-rank paths alone instead, as a folder that PEFT reads, too; of a stage that trains nothing else.
    Raises ConfigError for a run without a checkpoint, or without a mean.
    """
    run_folder = Path(folder)
    record = record_of(run_folder)
    found = checkpoint.complete(run_folder / loop.BEST if best else run_folder)
    if not found:
        raise ConfigError(f"{run_folder} has no {'best ' if best else ''}checkpoint yet")
    model, stage = learned(record, found[-1])
    if ema:
        checkpoint.load_average(found[-1], model.module)
    if adapter:
        require_paths_alone(model, stage)
        return model.save_adapter(target)
    merge_lora(model.module)
    return model.save(target)


def learned(record: Mapping[str, Any], path: Path) -> tuple[Model, Stage]:
    """The model of a run as it was at a checkpoint, low-rank paths beside its weights, and its stage."""
    model = loaded(record)
    stage = changed(stage_of(model, record["stage"]["name"]), record["settings"])
    prepare(model.module, stage)
    checkpoint.load_learned(path, model.module)
    if isinstance(stage.objective, Folds):
        objective = stage.objective.build(model.module)
        checkpoint.load_objective(path, objective)
        stage.objective.fold(objective, model.module)
    return model, stage


def require_paths_alone(model: Model, stage: Stage) -> None:
    """Raises ConfigError for a stage that trains what no adapter file holds."""
    beside = [name for name, p in model.module.named_parameters() if p.requires_grad and ".adapters." not in name]
    if beside or not stage.lora:
        what = f"{beside[0]} and {len(beside) - 1} more parameters" if beside else "no low-rank paths"
        raise ConfigError(f"stage {stage.name} trains {what}: an adapter would not hold that; export the whole model")


def learns(stage: Stage) -> str:
    """What a stage learns by, for messages."""
    return f"stage {stage.name} learns by {stage.objective.name}"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run works on: the stage with the data it is trained on, and what collators are made for."""

    model: Model
    stage: Stage
    mixture: Mixture
    learner: Learner


def learner_of(model: Model, stage: Stage, options: TrainOptions) -> Learner:
    """What collators are made for, in one process; the codec is loaded here, once."""
    words, patches = hidden_shares(stage)
    return Learner(
        module=model.module,
        processor=model.processor,
        labels=model._parts.labels,
        max_length=stage.budget.max_length,
        packing=options.packing,
        masked_words=words,
        masked_patches=patches,
        codec=load(options.codec, device="cpu").module if options.codec else None,
    )


def collator_of(model: Model, stage: Stage, learner: Learner) -> Collator:
    """What makes batches of the data: the model's own collator, or that of the stage's objective.

    Raises ConfigError for an objective that has none, and for a model whose processor cannot make them.
    """
    parts, objective = model._parts, stage.objective
    if parts.collator is not None and (own := parts.collator(objective, learner)) is not None:
        return own
    if not isinstance(objective, Collates):
        raise ConfigError(f"{learns(stage)}, which says not what data becomes in its batches: give it a `collator`")
    try:
        return objective.collator(learner)
    except ConfigError as problem:
        raise ConfigError(f"{model.name}, {learns(stage)}: {problem}") from problem


def hidden_shares(stage: Stage) -> tuple[float | None, float | None]:
    """Of words and of patches, as the stage's data says."""
    return (
        next((each.masked_words for each in stage.data if each.masked_words), None),
        next((each.masked_patches for each in stage.data if each.masked_patches), None),
    )


def mixture_of(paths: Sequence[str | Path], options: TrainOptions, split: str = "train") -> Mixture:
    """The data sets, opened and mixed.  split: what is taken of a file of features that holds several."""
    root = Path(options.media_root) if options.media_root else None
    datasets = [
        FeatureDataset(Path(each), split)
        if is_features(Path(each))
        else open_dataset(Path(each), root, options.question)
        for each in paths
    ]
    return Mixture(datasets, options.weights, options.seed)


def with_data(stage: Stage, paths: Sequence[str | Path], mixture: Mixture) -> Stage:
    """The stage with the data it is trained on now in place of the published; as much of it is hidden."""
    words, patches = hidden_shares(stage)
    sources = tuple(
        DataSource(
            name=Path(path).name,
            kind=stage.data[0].kind if stage.data else "conversations",
            samples=len(each),
            masked_words=words,
            masked_patches=patches,
        )
        for path, each in zip(paths, mixture.datasets, strict=True)
    )
    objective = stage.objective
    if isinstance(objective, CountsSamples):
        objective = objective.of_samples(mixture.epoch_size)
    return replace(stage, data=sources, objective=objective)


def run(
    work: Work, folder: Path, options: TrainOptions, watcher: loop.Report | None, stop: Stop, ranks: Ranks
) -> list[float]:
    """The steps that are left, and the report."""
    model, stage = work.model, work.stage
    assert stage.budget.batch is not None
    batch_options = BatchOptions(
        batch=stage.budget.batch,
        micro_batch=options.micro_batch,
        by_length=is_mean_over_tokens(model, stage),
        rank=ranks.rank,
        ranks=ranks.count,
    )
    collator = collator_of(model, stage, replace(work.learner, ranks=ranks.count))
    loader = StepLoader(collator.steps(work.mixture, batch_options), stage.steps, options.workers)
    evaluate = None
    if options.evaluation_data:
        held_out = mixture_of(options.evaluation_data, replace(options, weights=None), "valid")
        require_kind(held_out, collator, learns(stage))
        evaluate = evaluation(model, stage, collator.steps(held_out, batch_options))
    loop_options = loop.LoopOptions(
        precision=stage.budget.precision or "float32",
        report=watcher,
        stop=stop,
        evaluate=evaluate,
        evaluate_every=options.evaluate_every,
        max_skipped=options.max_skipped,
        activation_checkpointing=options.activation_checkpointing,
        feature_cache=Path(options.feature_cache) if options.feature_cache else None,
        same_draws=collator.compares,
        utilisation=True,
        ranks=ranks,
        about={"packing": options.packing, "micro_batch": options.micro_batch},
    )
    try:
        losses = loop.run_stage(
            model.module,
            stage,
            lambda step, generator: loader(step),
            folder,
            save_every=options.save_every,
            seed=options.seed,
            options=loop_options,
        )
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk is what the error says already
            tell(folder, ranks)
        raise
    finally:
        model.clear_caches()
    tell(folder, ranks)
    return losses


def is_mean_over_tokens(model: Model, stage: Stage) -> bool:
    """Whether a step's loss is the same however its rows are cut into passes: each token counts alike and alone."""
    objective = stage.objective
    plain = isinstance(objective, LanguageModeling) and objective.picture_id_weight == 1.0
    return plain and getattr(model.module, "moe", None) is None


def tell(folder: Path, ranks: Ranks) -> None:
    """Write the report of what was run until now."""
    if ranks.first and (folder / loop.LOG).exists():
        report.write_report(folder)


def evaluation(model: Model, stage: Stage, steps: Steps) -> Callable[[Any], float]:
    """(objective) -> the mean loss of a learned token over all samples of the evaluation data, once through; every
    process takes all of it: they run the model equally often, and agree on the score."""

    def evaluate(objective: Any) -> float:
        total, targets = 0.0, 0
        for step in steps.once():
            for each in step.micro_batches:
                with loop.autocast(model.module, stage.budget.precision or "float32"):
                    batch = loop.placed(each.batch, first_weight(model.module).device)
                    total += total_loss(objective(model.module, batch)).item() * each.targets
                targets += each.targets
        if not targets:
            raise ConfigError("the evaluation data has nothing to learn from: every sample of it is damaged")
        return total / targets

    return evaluate
