"""Training a model on a person's data: what a run keeps, how it goes on, what it refuses, what comes out."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file

import polymodal as pm
from polymodal.api import training
from polymodal.api.training import TrainOptions
from polymodal.errors import ConfigError, StorageError, UnknownName
from polymodal.train import checkpoint
from polymodal.train.recipe import below
from tiny_folders import tiny

SET = ["budget.batch=4", "budget.steps=8", "budget.precision=float32", "budget.max_length=480"]
LORA = [*SET, 'lora={"backbone.blocks": {"rank": 2, "alpha": 4, "dropout": 0.1}}', "optimizer.lr=0.01"]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA-1.5 and some data."""
    place = tmp_path_factory.mktemp("place")
    (place / "model").mkdir()
    tiny("llava-1.5", place / "model")
    rows: list[dict[str, Any]] = []
    for number in range(9):
        Pillow.new("RGB", (20, 30), (25 * number, 80, 90)).save(place / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "Which?", "answer": "word " * (1 + number % 4)})
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "held.jsonl").write_text("\n".join(map(json.dumps, rows[:3])))
    return place


def run(folder: Path, out: Path, stage: str = "align", settings: list[str] = SET, **given: Any) -> list[float]:
    options = TrainOptions(**{"save_every": 3, **given.pop("options", {})})
    model = pm.load(folder / "model", dtype="float32")
    return training.fit(model, [folder / "a.jsonl"], out=out, stage=stage, settings=settings, options=options, **given)


def stopping_after(steps: int) -> Callable[[], bool]:
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= steps


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.complete(out)[-1] / "model.safetensors")


@pytest.mark.parametrize(
    ("stage", "settings", "options"),
    [
        ("align", SET, {}),
        ("instruct-lora", LORA, {"packing": True, "micro_batch": 1, "workers": 2}),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, stage: str, settings: list[str], options: Any
) -> None:
    straight = run(folder, tmp_path / "a", stage, settings, options=options)
    first = run(folder, tmp_path / "b", stage, settings, options=options, stop=stopping_after(4))
    torch.manual_seed(99)
    _, second = training.resume(tmp_path / "b")
    assert len(first) == 4 and first + second == straight
    left, right = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / "log.jsonl").open()]
    assert steps == list(range(8))


def test_activation_checkpointing_trains_the_same(folder: Path, tmp_path: Path) -> None:
    plain = run(folder, tmp_path / "a", "instruct-lora", LORA)
    assert run(folder, tmp_path / "b", "instruct-lora", LORA, options={"activation_checkpointing": 1}) == plain
    left, right = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_run_goes_on_from_its_newest_whole_checkpoint(folder: Path, tmp_path: Path) -> None:
    straight = run(folder, tmp_path / "a", settings=[*SET, "budget.steps=30"])
    command = [sys.executable, "-m", "polymodal", "train", folder / "model", "--stage", "align", "--data",
               folder / "a.jsonl", "--out", tmp_path / "b", "--save-every", "3"]  # fmt: skip
    command += [word for each in (*SET, "budget.steps=30") for word in ("--set", each)]
    process = subprocess.Popen([str(word) for word in command], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        limit = time.monotonic() + 90
        while not checkpoint.complete(tmp_path / "b") and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert checkpoint.complete(tmp_path / "b"), "no checkpoint was written"
    training.resume(tmp_path / "b")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "b" / "log.jsonl").open()]
    assert losses == pytest.approx(straight, abs=1e-6) and len(losses) == 30
    assert not list((tmp_path / "b").glob(".step-*"))


def test_what_was_trained_is_exported_and_answers_as_the_model_in_memory(folder: Path, tmp_path: Path) -> None:
    model = pm.load(folder / "model", dtype="float32")
    losses = training.fit(
        model, [folder / "a.jsonl"], out=tmp_path / "run", stage="instruct-lora", settings=[*LORA, "budget.steps=20"],
        options=TrainOptions(evaluate_every=5, evaluation_data=(str(folder / "held.jsonl"),)),
    )  # fmt: skip
    assert losses[-1] < losses[0] - 0.5
    exported = pm.load(training.export(tmp_path / "run", tmp_path / "model"))
    batch = model.processor([[{"role": "user", "content": [pm.image(folder / "3.png"), "Which?"]}]])
    assert torch.allclose(exported.logits(**batch), model.logits(**batch), atol=1e-4)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    scores = {line["step"] + 1: line["evaluation"] for line in log if "evaluation" in line}
    assert list(scores) == [5, 10, 15, 20]
    (best,) = checkpoint.complete(tmp_path / "run" / "best")
    assert best.name == f"step-{min(scores, key=lambda step: (scores[step], -step)):08d}"
    assert training.export(tmp_path / "run", tmp_path / "best", best=True).is_dir()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "lowest evaluation loss" in page and "<script" not in page


def test_the_evaluation_is_the_mean_loss_of_a_learned_token(folder: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    run(folder, tmp_path, settings=[*SET, "budget.steps=1", "optimizer.lr=0", "budget.batch=2"],
        options={"evaluation_data": (str(folder / "held.jsonl"),)},
        report=lambda step, steps, line: seen.append(line["evaluation"]))  # fmt: skip
    model = pm.load(folder / "model", dtype="float32")
    losses, counts = 0.0, 0
    for line in (folder / "held.jsonl").read_text().splitlines():
        record = json.loads(line)
        talk = [
            {"role": "user", "content": [pm.image(folder / record["image"]), record["question"]]},
            {"role": "assistant", "content": record["answer"]},
        ]
        batch = model.processor(talk)
        count = int((batch["labels"][:, 1:] != -100).sum())
        losses += model(**batch).loss.item() * count
        counts += count
    assert seen == [pytest.approx(losses / counts, abs=1e-5)]


def test_a_run_of_other_settings_or_data_is_not_continued(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(folder, out, settings=[*SET, "budget.steps=1"])
    with pytest.raises(ConfigError, match=r"holds another run \(settings: .*stage\.optimizer\.lr: 0\.001, not 0\.5"):
        run(folder, out, settings=[*SET, "budget.steps=1", "optimizer.lr=0.5"])
    text = (folder / "a.jsonl").read_text()
    try:
        (folder / "a.jsonl").write_text(text + "\n" + text.splitlines()[0])
        with pytest.raises(ConfigError, match=r"holds another run \(data: "):
            run(folder, out, settings=[*SET, "budget.steps=1"])
    finally:
        (folder / "a.jsonl").write_text(text)
    (tmp_path / "other").mkdir()
    other = tiny("cogvlm", tmp_path / "other")
    said = r"holds another run \(model: .*model.*, not .*other.*; stage\."
    with pytest.raises(ConfigError, match=said):
        training.fit(other, [folder / "a.jsonl"], out=out, stage="instruct", settings=[*SET, "budget.steps=1"],
                     options=TrainOptions(save_every=3))  # fmt: skip
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        run(folder, tmp_path / "full")


def test_a_damaged_checkpoint_is_named_and_not_read(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, settings=[*SET, "budget.steps=6"], stop=stopping_after(3))
    file = checkpoint.complete(tmp_path)[-1] / "optimiser.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"optimiser\.safetensors is damaged: its SHA-256"):
        training.resume(tmp_path)


def test_losses_that_are_no_numbers_stop_the_run_and_keep_the_parameters(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at step \d+ \(samples a\.jsonl:.*the parameters before it are in"):
        run(folder, tmp_path, settings=[*SET, "optimizer.lr=1e30", "optimizer.clip=null", "budget.steps=40"])
    kept = weights(tmp_path)
    assert all(torch.isfinite(each).all() for each in kept.values())


def test_a_full_disk_leaves_the_old_checkpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, tmp_path, settings=[*SET, "budget.steps=6"], stop=stopping_after(3))
    before = [path.name for path in checkpoint.complete(tmp_path)]

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(training.report, "write_report", full)  # must not hide which checkpoint is whole
    with pytest.raises(StorageError, match=r"cannot write the checkpoint of step 6 .*No space left.*is whole"):
        training.resume(tmp_path)
    assert [path.name for path in checkpoint.complete(tmp_path)] == before
    monkeypatch.undo()
    _, losses = training.resume(tmp_path)
    assert len(losses) == 3


def test_a_run_goes_on_in_its_own_dtype_from_any_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pm.load(folder / "model", dtype="bfloat16").save(tmp_path / "half")
    monkeypatch.chdir(folder)
    options = TrainOptions(evaluation_data=("held.jsonl",))
    first = training.fit(pm.load(tmp_path / "half", dtype="float32"), ["a.jsonl"], out=tmp_path / "run", stage="align",
                         settings=SET, options=options, stop=stopping_after(3))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model, second = training.resume("run")
    assert len(first) == 3 and len(second) == 5
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exported = pm.load(training.export("run", "out"), dtype="float32")
    batch = model.processor([{"role": "user", "content": "Who?"}])
    assert torch.allclose(exported.logits(**batch), model.logits(**batch), atol=1e-4)


def test_too_many_damaged_samples_stop_the_run(folder: Path, tmp_path: Path) -> None:
    rows = [{"image": f"gone{i}.png", "caption": "x"} for i in range(6)] + [{"question": "a", "answer": "b"}] * 2
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = pm.load(folder / "model", dtype="float32")
    with pytest.raises(ConfigError, match=r"damaged samples until step \d+, the limit is 2; the last: bad\.jsonl:"):
        training.fit(model, [tmp_path / "bad.jsonl"], out=tmp_path / "run", stage="align", settings=SET,
                       options=TrainOptions(max_skipped=2))  # fmt: skip


@pytest.mark.parametrize("name", ["llava-1.5", "cogvlm"])
def test_frozen_parts_have_no_gradient_no_state_of_the_optimiser_and_stay_in_evaluation_mode(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "model").mkdir()
    tiny(name, tmp_path / "model")
    model, seen = pm.load(tmp_path / "model", dtype="float32"), []
    learns = {"llava-1.5": "connectors.image", "cogvlm": "backbone.blocks.*.branches.1"}[name]

    def look(step: int, steps: int, line: dict[str, float]) -> None:
        named = dict(model.module.named_parameters())
        free = {each for each in named if below(each, learns)}
        assert free and {each for each, p in named.items() if p.requires_grad} == free
        assert {each for each, p in named.items() if p.grad is not None} == free
        for path, part in model.module.named_modules():
            own = {f"{path}.{each}" if path else each for each, _ in part.named_parameters()}
            assert not own or part.training == bool(own & free), path
        seen.append(len(free))

    stage = replace(training.stage_of(pm.load(folder / "model"), "align"), train=(learns,))
    training.fit(model, [folder / "a.jsonl"], out=tmp_path / "run", stage=stage, settings=[*SET[:1], "budget.steps=2"],
                 options=TrainOptions(), report=look)  # fmt: skip
    moments = load_file(checkpoint.complete(tmp_path / "run")[-1] / "optimiser.safetensors")
    assert {each.split(".")[0] for each in moments} == {str(i) for i in range(seen[0])} and len(seen) == 2


def test_a_step_of_texts_alone_changes_no_connector(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"question": "Who?", "answer": "me"}\n' * 4)
    model = pm.load(folder / "model", dtype="float32")
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    losses = training.fit(model, [tmp_path / "texts.jsonl"], out=tmp_path / "run", stage="align",
                            settings=[*SET, "budget.steps=2"])  # fmt: skip
    assert len(losses) == 2 and all(torch.equal(before[name], p) for name, p in model.module.named_parameters())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimiser.lr=1", "Stage has no field 'optimiser'; did you mean 'optimizer'"),
        ("optimizer.rate=1", "AdamW has no field 'rate'; it has lr, weight_decay"),
        ("optimizer.lr=fast", "lr must be float | None, found str 'fast'"),
        ("budget", "expected path=value"),
        ("train=connector", "stage trains 'connector', which names no parameter; .*nearest: connectors"),
        ('schedule={"type": "Sine"}', 'expected a "type" of Adam, AdamW'),
        ('schedule={"type": "Cosine", "warm": 1}', "Cosine has no field 'warm'; it has"),
        ("budget.steps.x=1", "'x' would be inside int"),
        ("budget.batch=null", "has no published batch size; give budget.batch"),
    ],
)
def test_settings_that_cannot_be_are_named(folder: Path, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        run(folder, tmp_path / "run", settings=[*SET, setting])


def test_settings_change_records_inside_records(folder: Path) -> None:
    from polymodal.train.settings import changed

    stage = training.stage_of(pm.load(folder / "model"), "instruct-lora")
    found = changed(stage, ["train=connectors, backbone.norm", 'schedule={"type": "Linear", "warmup_steps": 5}',
                            "optimizer.betas=[0.8, 0.9]", 'lora={"backbone": {"rank": 4, "alpha": 8}}'])  # fmt: skip
    assert found.train == ("connectors", "backbone.norm")
    assert found.schedule is not None and found.schedule.warmup_steps == 5
    assert found.optimizer.betas == (0.8, 0.9)  # type: ignore[attr-defined]
    assert found.lora["backbone"].rank == 4 and list(found.lora) == ["backbone"]


def test_stages_and_runs_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"llava-1\.5 has no stage 'allign'; it has align, instruct, instruct-lora"):
        run(folder, tmp_path, stage="allign")
    model = pm.load(folder / "model")
    with pytest.raises(ConfigError, match="has the stages align, instruct, instruct-lora; say which"):
        training.stage_of(model, None)
    with pytest.raises(ConfigError, match="holds no run of `polymodal train`"):
        training.resume(tmp_path / "nowhere")
