"""Two processes of torchrun train what one trains, and go on from what one has saved."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal import TrainOptions
from polymodal.train import checkpoint
from tiny_folders import tiny

SET = ("budget.batch=5", "budget.steps=6", "budget.precision=float32", "budget.max_length=480", "optimizer.clip=0.5")
LORA = ('lora={"backbone.blocks": {"rank": 2, "alpha": 4}}', "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "model").mkdir()
    tiny("llava-1.5", place / "model")
    rows: list[dict[str, Any]] = [{"question": "Who?", "answer": "me"}, {"image": "gone.png", "caption": "x"}]
    for number in range(7):
        Pillow.new("RGB", (20, 30), (25 * number, 80, 90)).save(place / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "Which?", "answer": "word " * (1 + number % 4)})
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "held.jsonl").write_text("\n".join(map(json.dumps, rows[2:5])))
    return place


def settings_of(stage: str) -> list[str]:
    return [*SET, *(LORA if "lora" in stage else ())]


def train_alone(place: Path, out: Path, stage: str) -> None:
    options = TrainOptions(save_every=2, micro_batch=2, evaluation_data=(str(place / "held.jsonl"),))
    model = pm.load(place / "model", dtype="float32")
    pm.fit(model, [place / "a.jsonl"], out=out, stage=stage, settings=settings_of(stage), options=options)


def train_with_two(*arguments: object) -> None:
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    command = [str(word) for word in (*start, "-m", "polymodal", "train", *arguments, "--threads", 1)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr


def learned(out: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint."""
    parts = checkpoint.parts_of(checkpoint.complete(out)[-1], "model")
    return {name: parts.whole(name) for name in parts.names}


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").open()]


def test_two_ranks_train_what_one_trains(place: Path, tmp_path: Path) -> None:
    train_alone(place, tmp_path / "1", "instruct")
    settings = [word for each in settings_of("instruct") for word in ("--set", each)]
    train_with_two(place / "model", "--stage", "instruct", "--data", place / "a.jsonl", "--out", tmp_path / "2",
                   "--save-every", 2, "--micro-batch", 2, "--evaluate", place / "held.jsonl",
                   "--activation-checkpointing", 1, *settings)  # fmt: skip
    one, two = log(tmp_path / "1"), log(tmp_path / "2")
    for left, right in zip(one, two, strict=True):
        assert {name: left[name] for name in ("step", "samples", "tokens", "targets", "lr")} == {
            name: right[name] for name in ("step", "samples", "tokens", "targets", "lr")
        }
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-4)
        assert right["norm"] == pytest.approx(left["norm"], rel=1e-3)
    assert two[-1]["evaluation"] == pytest.approx(one[-1]["evaluation"], rel=1e-4)
    skipped = [(tmp_path / each / "skipped.jsonl").read_text() for each in "12"]
    assert skipped[0] == skipped[1] and "gone.png" in skipped[0]
    weights = [learned(tmp_path / each) for each in "12"]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-3
    parts = sorted(path.name for path in checkpoint.complete(tmp_path / "2")[-1].glob("model.*"))
    assert parts == ["model.0.safetensors", "model.1.safetensors"]


def test_a_run_goes_on_with_another_number_of_ranks(place: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_alone(place, whole, "instruct-lora")
    shutil.copytree(whole, parts)
    for path in checkpoint.complete(parts):
        if int(path.name.removeprefix("step-")) > 4:
            (path / checkpoint.MARKER).unlink()
    train_with_two("--resume", parts)  # steps 5 and 6 again, by two
    losses = [[line["loss"] for line in log(out)] for out in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for path in checkpoint.complete(parts):
        if int(path.name.removeprefix("step-")) > 4:
            (path / checkpoint.MARKER).unlink()
    pm.resume(parts)  # and by one
    assert [line["loss"] for line in log(parts)] == pytest.approx(losses[0], rel=1e-4)
