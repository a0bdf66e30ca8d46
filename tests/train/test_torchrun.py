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
from safetensors.torch import load_file

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


def train(place: Path, out: Path, ranks: int, *more: object, stage: str = "align") -> None:
    given: list[object] = ["-m", "polymodal", "train", place / "model", "--stage", stage, "--data", place / "a.jsonl",
                           "--out", out, "--save-every", 2, "--micro-batch", 2, "--threads", 1,
                           "--evaluate", place / "held.jsonl"]  # fmt: skip
    for each in (*SET, *(LORA if "lora" in stage else ())):
        given += ["--set", each]
    given = [*given, *more] if "--resume" not in more else ["-m", "polymodal", "train", *more]
    start = [sys.executable] if ranks == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]  # fmt: skip
    command = [str(word) for word in (*start, *given)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").open()]


def test_two_ranks_train_what_one_trains(place: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        train(place, tmp_path / str(ranks), ranks, stage="instruct")
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
    weights = [load_file(checkpoint.complete(tmp_path / each)[-1] / "model.safetensors") for each in "12"]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-3
    assert all(type(each) is torch.Tensor for each in weights[1].values())


def test_a_run_goes_on_with_another_number_of_ranks(place: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(place, whole, 1, stage="instruct-lora")
    shutil.copytree(whole, parts)
    for path in checkpoint.complete(parts):
        if int(path.name.removeprefix("step-")) > 4:
            (path / checkpoint.MARKER).unlink()
    train(place, parts, 2, "--resume", parts)  # steps 5 and 6 again, by two
    losses = [[line["loss"] for line in log(out)] for out in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for path in checkpoint.complete(parts):
        if int(path.name.removeprefix("step-")) > 4:
            (path / checkpoint.MARKER).unlink()
    train(place, parts, 1, "--resume", parts)  # and by one
    assert [line["loss"] for line in log(parts)] == pytest.approx(losses[0], rel=1e-4)
