"""Runs of two processes for every way of fusion, where one process often has pictures and the other none.

They must be the runs of one process over the same batches; a run goes on with another number of processes, and is bit
for bit what it would have been where it goes on with as many, after a kill too.  float32, one row a pass, so that the
same rows stand beside each other whoever computes them; largest difference of a loss 1e-5 of it.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from ranked_runs import run

import modality_folders
import polymodal as pm
from modality_folders import modalities
from polymodal.api import training
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import moe_llava
from polymodal.train import checkpoint
from polymodal.train.batches import BatchOptions, StepBatches
from polymodal.train.collator import Learner
from polymodal.train.conversations import conversations
from polymodal.train.parameters import prepare
from polymodal.train.settings import changed
from stage_folders import captions, coded, write_folder
from tiny_folders import tiny

KINDS: dict[str, dict[str, Any]] = {
    "flamingo": {"train": ["connectors.image", "backbone.blocks.*.cross"]},  # A
    "cogvlm": {"train": ["connectors.image", "backbone.*.branches.1"]},  # B: experts of pictures and of text
    "moe-llava": {"train": ["backbone"], "frozen": ["backbone.embed_tokens"]},  # B: a learned gate
    "llava-1.5": {"train": ["encoders.image", "connectors.image", "backbone"]},  # C
    "chameleon": {"train": ["backbone"]},  # D
}
LORA = ['lora={"backbone.blocks": {"rank": 2, "alpha": 4, "dropout": 0.1}}', "optimizer.lr=0.01", "budget.batch=4",
        "budget.steps=40", "budget.precision=float32", "budget.max_length=480", "ema=0.9"]  # fmt: skip
SHORT = ["budget.batch=4", "budget.steps=3", "budget.precision=float32", "optimizer.lr=0.001",
         'schedule={"type": "Constant"}']  # fmt: skip
DRAWING: dict[str, tuple[str, list[str], dict[str, Any]]] = {  # stage, settings, options
    "beit:masked": ("masked-pictures", [], {"micro_batch": 1}),  # masks of each sample
    "fourm": ("pretrain-7", [], {"micro_batch": 1}),
    "albef": ("pretrain", ["objective.queue=16", "objective.ramp_steps=4"], {}),  # negatives, of all samples
}
EXACT = {"stage": "instruct-lora", "settings": LORA, "options": {"packing": True, "workers": 2, "save_every": 20}}


def write_moe(folder: Path) -> None:
    size = byte_tokenizer(folder, ["<|endoftext|>"], eos="<|endoftext|>", pad="<|endoftext|>")
    config = moe_llava.tiny(size, folder / "clip")
    write_config(folder, config=config, generation_config={"eos_token_id": 0})
    spec = moe_llava.SYSTEM.formats[0].model_spec(config)
    module = spec.build()
    randomise.fill(module)
    write_weights(folder, module, spec.keys[0])


def torchrun(folder: Path, runs: list[dict[str, Any]], name: str, code: int = 0) -> None:
    """The runs, by two processes."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(Path(__file__).parent / "ranked_runs.py"), str(file)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == code, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, the data, and the runs of two processes."""
    place = tmp_path_factory.mktemp("place")
    rows: list[dict[str, Any]] = []
    for number in range(9):
        Pillow.new("RGB", (20, 30), (25 * number, 80, 90)).save(place / f"{number}.png")
        seen = {"image": f"{number}.png"} if number in (1, 2, 5, 7, 8) else {}
        rows.append({**seen, "question": "Which?", "answer": "word " * (1 + number % 4)})
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in KINDS:
        (place / name).mkdir()
        write_moe(place / name) if name == "moe-llava" else tiny(name, place / name)
    for name, data in {"beit:masked": coded, "fourm": modalities, "albef": captions}.items():
        write = modality_folders.WRITTEN.get(name)
        write_folder(name, place / name) if write is None else ((place / name).mkdir(), write(place / name))
        (place / f"{name}-data").mkdir()
        data(place / f"{name}-data").rename(place / f"{name}-data" / "rows.jsonl")
    runs = [of(place, name, f"{name}-2") for name in KINDS] + [drawn(place, name, f"{name}-2") for name in DRAWING]
    runs += [of(place, "llava-1.5", "reshared", stop=2), of(place, "llava-1.5", "whole", **EXACT),
             of(place, "llava-1.5", "killed", kill=25, **EXACT)]  # fmt: skip
    torchrun(place, runs, "first", code=1)  # the last one is killed
    assert [path.name for path in checkpoint.complete(place / "killed")] == ["step-00000020"]
    run(of(place, "llava-1.5", "reshared", stop=1))
    assert (checkpoint.complete(place / "reshared")[-1] / "model.safetensors").exists()
    torchrun(place, [of(place, "llava-1.5", "reshared"), of(place, "llava-1.5", "killed", **EXACT)], "second")
    return place


def of(place: Path, name: str, out: str, **given: Any) -> dict[str, Any]:
    stage = KINDS.get(name)
    return {"model": str(place / name), "data": [str(place / "rows.jsonl")], "out": str(place / out), "stage": stage,
            "options": {"micro_batch": 1}, **given}  # fmt: skip


def drawn(place: Path, name: str, out: str) -> dict[str, Any]:
    """A run whose objective draws random numbers."""
    stage, more, options = DRAWING[name]
    data = [str(place / f"{name}-data" / "rows.jsonl")]
    return of(place, name, out) | {"stage": stage, "data": data, "settings": [*SHORT, *more], "options": options}


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").open()]


def learned(out: Path, name: str = "model") -> dict[str, torch.Tensor]:
    parts = checkpoint.parts_of(checkpoint.complete(out)[-1], name)
    return {name: parts.whole(name) for name in parts.names}


def same(left: Path, right: Path) -> None:
    """Losses, norms and what was learned, but for the order of sums."""
    for one, other in zip(log(left), log(right), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["norm"] == pytest.approx(one["norm"], rel=1e-4)
    weights = [learned(left), learned(right)]
    assert weights[0].keys() == weights[1].keys()
    for name, each in weights[0].items():
        if not name.endswith("k_proj.bias"):  # a softmax does not see it: what Adam takes for a gradient is rounding
            assert float((each - weights[1][name]).abs().max()) < 2e-4, name


@pytest.mark.parametrize("name", KINDS)
def test_two_ranks_train_what_one_trains(name: str, place: Path) -> None:
    run(of(place, name, f"{name}-1"))
    same(place / f"{name}-1", place / f"{name}-2")


@pytest.mark.parametrize("name", DRAWING)
def test_two_ranks_draw_what_one_draws(name: str, place: Path) -> None:
    """Masks follow from a sample's place in the run; processes that each see a whole batch draw alike."""
    run(drawn(place, name, f"{name}-1"))
    same(place / f"{name}-1", place / f"{name}-2")


def test_often_one_rank_has_pictures_and_the_other_none(place: Path) -> None:
    model, mixture = pm.load(place / "llava-1.5"), training.mixture_of([place / "rows.jsonl"], pm.TrainOptions())
    options = BatchOptions(batch=5, micro_batch=1, ranks=2)
    counts: list[list[int]] = []
    for rank in range(2):
        collator = conversations(Learner(module=model.module, processor=model.processor, ranks=2))
        batches = StepBatches(collator=collator, mixture=mixture, options=replace(options, rank=rank))
        found = [[int(each.batch["item_counts"]["image"]) for each in batches[step].micro_batches] for step in range(4)]
        counts.append([each for step in found for each in (*step, -1)[:3]])  # -1: the second has one row less
    different = [one != other for one, other in zip(*counts, strict=True)]
    assert 4 + 2 <= sum(different) < len(different)


def test_a_run_is_shared_out_anew(place: Path) -> None:
    two = place / "llava-1.5-2"
    assert len(log(place / "reshared")) == 4  # 2 steps of two processes, 1 of one, 1 of two
    same(two, place / "reshared")
    moments = [learned(out, "optimiser") for out in (two, place / "reshared")]
    assert moments[0].keys() == moments[1].keys()
    for name, each in moments[0].items():
        assert torch.allclose(each, moments[1][name], rtol=1e-3, atol=1e-7), name


def test_two_ranks_go_on_bit_for_bit_after_a_kill(place: Path) -> None:
    assert [line["loss"] for line in log(place / "killed")] == [line["loss"] for line in log(place / "whole")]
    for name in ("model", "optimiser", "average"):
        left, right = learned(place / "whole", name), learned(place / "killed", name)
        assert left.keys() == right.keys() and all(torch.equal(left[each], right[each]) for each in left)


@pytest.mark.parametrize("low_rank", [True, False])
def test_one_process_goes_on_bit_for_bit_after_a_kill(low_rank: bool, place: Path, tmp_path: Path) -> None:
    """20 steps, a kill in the 25th, 20 steps from the checkpoint of the 20th: as 40 without it.

    Low-rank paths with dropout and a running mean, or packing and worker processes; all of it above.
    """
    options = {} if low_rank else {"packing": True, "workers": 2}
    given = {"stage": "instruct-lora" if low_rank else "align", "options": {**options, "save_every": 20},
             "settings": LORA if low_rank else [*LORA[1:-1]]}  # fmt: skip
    (tmp_path / "killed.json").write_text(json.dumps([of(place, "llava-1.5", str(tmp_path / "b"), kill=25, **given)]))
    command = [sys.executable, str(Path(__file__).parent / "ranked_runs.py"), str(tmp_path / "killed.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in checkpoint.complete(tmp_path / "b")] == ["step-00000020"]
    straight = run(of(place, "llava-1.5", str(tmp_path / "a"), **given))
    second = run(of(place, "llava-1.5", str(tmp_path / "b"), **given))
    assert len(straight) == 40 and second == straight[20:]
    assert [line["loss"] for line in log(tmp_path / "b")] == straight
    for name in ("model", "optimiser", *(["average"] if low_rank else [])):
        left, right = learned(tmp_path / "a", name), learned(tmp_path / "b", name)
        assert left.keys() == right.keys() and all(torch.equal(left[each], right[each]) for each in left)


def test_what_two_ranks_learned_is_exported_whole(place: Path, tmp_path: Path) -> None:
    exported = pm.load(training.export(place / "whole", tmp_path / "model"), dtype="float32")
    model = pm.load(place / "llava-1.5", dtype="float32")
    stage = changed(training.stage_of(model, "instruct-lora"), LORA)
    prepare(model.module, stage)
    found = learned(place / "whole")
    for name, parameter in model.module.named_parameters():
        if name in found:
            parameter.data.copy_(found[name])
    batch = model.processor([{"role": "user", "content": [pm.image(place / "1.png"), "Which?"]}])
    assert torch.allclose(exported.logits(**batch), model.logits(**batch), atol=1e-4)
