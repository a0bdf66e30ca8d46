"""The running mean of weights: its definition, exact resumption, export, and that nobody has one who did not ask."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_loop import STAGE, batches, net

import polymodal as pm
from polymodal.api import training
from polymodal.errors import ConfigError
from polymodal.train import checkpoint
from polymodal.train.loop import run_stage
from tiny_folders import tiny

EMA = replace(STAGE, ema=0.75)


def means(folder: Path, file: str = "average") -> dict[str, torch.Tensor]:
    return load_file(checkpoint.complete(folder)[-1] / f"{file}.safetensors")


def test_it_is_the_mean_of_the_weights_after_every_step(tmp_path: Path) -> None:
    model, wanted = net(), dict(net().head.named_parameters())
    wanted = {name: each.detach().clone() for name, each in wanted.items()}
    for step in range(1, 6):
        run_stage(model, EMA, batches, tmp_path, stop_at=step)
        wanted = {name: 0.75 * mean + 0.25 * model.head.get_parameter(name).detach() for name, mean in wanted.items()}
    found = means(tmp_path)
    assert found.keys() == {f"head.{name}" for name in wanted}  # the frozen body has none
    for name, mean in wanted.items():
        assert torch.allclose(found[f"head.{name}"], mean, atol=1e-6)


def test_it_goes_on_bit_for_bit_and_changes_no_training(tmp_path: Path) -> None:
    straight = run_stage(net(), EMA, batches, tmp_path / "a")
    halves = run_stage(net(), EMA, batches, tmp_path / "b", stop_at=5) + run_stage(net(), EMA, batches, tmp_path / "b")
    assert straight == halves == run_stage(net(), STAGE, batches, tmp_path / "c")
    left, right = means(tmp_path / "a"), means(tmp_path / "b")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not (checkpoint.complete(tmp_path / "c")[-1] / "average.safetensors").exists()
    with pytest.raises(ConfigError, match=r"other settings \(stage\.ema: 0\.75, not null\)"):
        run_stage(net(), STAGE, batches, tmp_path / "b")
    with pytest.raises(ConfigError, match=r"ema is a decay between 0 and 1, as 0\.999; found 1\.5"):
        replace(STAGE, ema=1.5)


def test_it_is_exported_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = tiny("llava-1.5", tmp_path / "model")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"question": "Who?", "answer": "me"}) for _ in range(4)))
    settings = ["budget.steps=4", "budget.batch=2", "budget.precision=float32", "optimizer.lr=0.01", "ema=0.5",
                'lora={"backbone.blocks": {"rank": 2, "alpha": 4}}', "train=backbone.norm"]  # fmt: skip
    for out, given in (("run", settings), ("plain", [each for each in settings if "ema" not in each])):
        trained = pm.load(tmp_path / "model", dtype="float32")
        pm.fit(trained, [tmp_path / "a.jsonl"], out=tmp_path / out, stage="instruct-lora", settings=given)
    batch = model.processor([{"role": "user", "content": "Who?"}])
    logits = {}
    for name, ema in (("newest", False), ("mean", True)):
        exported = pm.load(training.export(tmp_path / "run", tmp_path / name, ema=ema), dtype="float32")
        logits[name] = exported.logits(**batch)
    assert torch.allclose(logits["newest"], trained.logits(**batch), atol=1e-4)
    for name, mean in means(tmp_path / "run").items():
        trained.module.get_parameter(name).data.copy_(mean)
    assert torch.allclose(logits["mean"], trained.logits(**batch), atol=1e-4)
    assert not torch.allclose(logits["mean"], logits["newest"], atol=1e-3)
    with pytest.raises(ConfigError, match="holds no running mean of weights: the stage was run without ema"):
        training.export(tmp_path / "plain", tmp_path / "x", ema=True)
