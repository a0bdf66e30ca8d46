"""Low-rank paths in training beside PEFT's own: the same steps, the same merged weights, files in both directions.

LoRA and DoRA; float32, five steps of AdamW, largest difference 1e-5 of what was learned and of what is merged.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_loop import STAGE
from torch import Tensor, nn

import polymodal as pm
from polymodal.api import training
from polymodal.errors import ConfigError
from polymodal.nn.lora import merge_lora
from polymodal.train.loop import begin, train_step
from polymodal.train.optimizer import AdamW
from polymodal.train.parameters import trained_numbers
from polymodal.train.recipe import LoRAConfig
from polymodal.train.schedule import Constant
from tiny_folders import tiny

peft = pytest.importorskip("peft")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


def batch(step: int) -> dict[str, Tensor]:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": x[:, :3] * 2}


@pytest.mark.parametrize("dora", [True, False])
def test_steps_and_merging_are_those_of_peft(dora: bool) -> None:
    rule = LoRAConfig(rank=2, alpha=4, dora=dora)
    stage = replace(STAGE, train=("head",), lora={"body": rule, "head": rule}, schedule=Constant(),
                    optimizer=AdamW(lr=0.05))  # fmt: skip
    ours = Net()
    count = trained_numbers(ours, stage)[0]
    run = begin(ours, stage, seed=1)
    assert count == sum(p.numel() for p in ours.parameters() if p.requires_grad)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["body", "head"], use_dora=dora)
    theirs = peft.get_peft_model(Net(), config)
    pairs = []
    for name in ("body", "head"):
        path, layer = getattr(ours, name).adapters["default"], getattr(theirs.base_model.model, name)
        layer.lora_A["default"].weight.data.copy_(path.lora_A.weight)
        layer.lora_B["default"].weight.data.copy_(path.lora_B.weight)
        pairs += [(path.lora_A.weight, layer.lora_A["default"].weight),
                  (path.lora_B.weight, layer.lora_B["default"].weight)]  # fmt: skip
        if dora:
            pairs.append((path.magnitude, layer.lora_magnitude_vector["default"].weight))
    for left, right in pairs:
        assert torch.allclose(left, right, atol=1e-6)
    optimiser = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=0.05, weight_decay=0.0)
    for step in range(5):
        given = batch(step)
        train_step(run, stage, given, step)
        optimiser.zero_grad()
        (theirs(given["x"]) - given["y"]).square().mean().backward()
        optimiser.step()
        run.objective.mean.data.zero_()  # the objective's own; theirs has none
    for left, right in pairs:
        assert torch.allclose(left, right, atol=1e-5)
    x = batch(9)["x"]
    before = ours(x)
    merge_lora(ours)
    merged = theirs.merge_and_unload()
    assert torch.allclose(ours(x), before, atol=1e-5)
    for name in ("body.weight", "head.weight"):
        assert torch.allclose(ours.get_parameter(name), merged.get_parameter(name), atol=1e-5)


@pytest.mark.parametrize("dora", [True, False])
def test_the_adapter_of_a_run_is_a_peft_folder_that_is_attached_again(dora: bool, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tiny("llava-1.5", tmp_path / "model")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"question": "Who?", "answer": "me"}) for _ in range(4)))
    rule = json.dumps({"backbone.blocks": {"rank": 2, "alpha": 4, "dora": dora}})
    settings = ["budget.steps=4", "budget.batch=2", "budget.precision=float32", "optimizer.lr=0.01", f"lora={rule}"]
    model: Any = pm.load(tmp_path / "model", dtype="float32")
    pm.fit(model, [tmp_path / "a.jsonl"], out=tmp_path / "run", stage="instruct-lora", settings=[*settings, "train=[]"])
    folder = training.export(tmp_path / "run", tmp_path / "adapter", adapter=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["lora_alpha"] == 4 and bool(config.get("use_dora")) == dora
    names = load_file(folder / "adapter_model.safetensors")
    assert any("lora_magnitude_vector" in name for name in names) == dora
    batch = model.processor([{"role": "user", "content": "Who?"}])
    again = pm.load(tmp_path / "model", dtype="float32", adapters=[folder])
    assert torch.allclose(again.logits(**batch), model.logits(**batch), atol=1e-5)
    again.merge()
    assert torch.allclose(again.logits(**batch), model.logits(**batch), atol=1e-4)
    whole = pm.load(training.export(tmp_path / "run", tmp_path / "whole"), dtype="float32")
    assert torch.allclose(whole.logits(**batch), model.logits(**batch), atol=1e-4)
    other: Any = pm.load(tmp_path / "model", dtype="float32")
    pm.fit(other, [tmp_path / "a.jsonl"], out=tmp_path / "both", stage="instruct-lora", settings=settings)
    with pytest.raises(ConfigError, match=r"trains connectors\.image.* an adapter would not hold that"):
        training.export(tmp_path / "both", tmp_path / "x", adapter=True)
