"""Operations of training steps are counted exactly, scaled by tokens, and change no bit of a run."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from polymodal.models.output import Output
from polymodal.nn.linear import linear
from polymodal.train import loop, utilisation
from polymodal.train.batches import StepData
from polymodal.train.collator import MicroBatch
from polymodal.train.loop import LoopOptions, run_stage
from polymodal.train.objectives import LanguageModeling
from polymodal.train.optimizer import AdamW
from polymodal.train.recipe import Budget, DataSource, Stage
from polymodal.train.schedule import Cosine

WIDTH, HIDDEN, ROWS = 8, 32, 6
STAGE = Stage(
    name="fit", data=(DataSource(name="noise", kind="conversations"),), train=("first", "second"),
    objective=LanguageModeling(), optimizer=AdamW(lr=1e-2), schedule=Cosine(warmup_steps=1),
    budget=Budget(batch=ROWS, steps=5),
)  # fmt: skip
OPTIONS = LoopOptions(utilisation=True)


class TwoLinears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Output:
        loss = (self.second(self.first(x).relu())[:, 0] - y).square().mean()
        return Output(losses={"squares": loss})


def model() -> nn.Module:
    torch.manual_seed(0)
    return TwoLinears()


def batches(step: int, generator: torch.Generator) -> StepData:
    """Half the rows after the first step."""
    rows = ROWS if step == 0 else ROWS // 2
    batch = {"x": torch.randn(rows, WIDTH, generator=generator), "y": torch.randn(rows, generator=generator)}
    return StepData(micro_batches=(MicroBatch(batch=batch, targets=rows, tokens=rows),))


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "rate_of", lambda *given, **more: 1e6)


@pytest.mark.parametrize("rows", [1, 5, 80])
def test_the_projects_own_linears_are_counted_as_torchs(rows: int) -> None:
    weight = nn.Parameter(torch.randn(1024, 512))
    found = []
    for multiply in (linear, nn.functional.linear):
        x = torch.randn(rows, 512, requires_grad=True)
        with utilisation.counter() as counted:
            multiply(x, weight).sum().backward()
        with utilisation.counter() as without, torch.no_grad():
            multiply(x, weight)
        found.append((counted.get_total_flops(), without.get_total_flops()))
    assert found[0] == found[1] == (3 * 2 * rows * 1024 * 512, 2 * rows * 1024 * 512)


def test_operations_are_counted_and_scaled_by_tokens(tmp_path: Path) -> None:
    run_stage(model(), STAGE, batches, tmp_path, options=OPTIONS)
    first, *others = log(tmp_path)
    # Forward and both gradients, without that of the input, which nobody asks for.
    counted = 2 * ROWS * (2 * WIDTH * HIDDEN + 3 * HIDDEN)
    assert first["operations"] == counted and "limit" not in first
    for line in others:
        assert line["limit"] == pytest.approx(counted / 2 / line["seconds"] / 1e6)


def test_a_stopped_run_goes_on_with_the_same_bits_and_the_same_count(tmp_path: Path) -> None:
    whole, stopped, plain = model(), model(), model()
    run_stage(whole, STAGE, batches, tmp_path / "whole", options=OPTIONS)
    run_stage(plain, STAGE, batches, tmp_path / "plain")
    run_stage(stopped, STAGE, batches, tmp_path / "stopped", stop_at=2, options=OPTIONS)
    run_stage(stopped, STAGE, batches, tmp_path / "stopped", options=OPTIONS)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]) and torch.equal(value, plain.state_dict()[name])
    assert all("limit" in line for line in log(tmp_path / "stopped")[1:])


def test_the_rate_is_that_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1e8 < utilisation.matmul_rate(seconds=0.05) < 1e15
