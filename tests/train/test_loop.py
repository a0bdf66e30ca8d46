"""The training loop: stages, exact resumption, checkpoints that survive a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.losses import contrastive_loss, lm_head_loss, names_loss
from polymodal.train import checkpoint
from polymodal.train.loop import run_stage
from polymodal.train.objectives import Loss
from polymodal.train.optimizer import SGD, AdamW
from polymodal.train.parameters import freeze_except
from polymodal.train.recipe import Budget, DataSource, Stage
from polymodal.train.schedule import Cosine


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Mean squares, times a factor that makes what is not a number of it."""

    name: ClassVar[str] = "squares"
    factor: float = 1.0

    def build(self, model: nn.Module) -> Loss:
        return SquaresLoss(self.factor)


class SquaresLoss(Loss):
    """Holds a mean of its targets, which it learns beside the model, and a count of its calls."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.mean = nn.Parameter(torch.zeros(1))
        self.register_buffer("calls", torch.zeros(1, dtype=torch.long))

    def forward(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        self.calls += 1
        squares = (model(batch["x"]) - batch["y"] - self.mean).square().mean()
        return {"squares": squares * self.factor, "mean": 0.1 * self.mean.square().sum()}


STAGE = Stage(
    name="fit", data=(DataSource(name="noise", kind="features"),), train=("head",), objective=Squares(),
    optimizer=AdamW(lr=1e-2, clip=1.0), schedule=Cosine(warmup_steps=3), budget=Budget(batch=4, steps=12),
)  # fmt: skip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.body(x))))


def net() -> Net:
    torch.manual_seed(3)
    return Net()


def batches(step: int, generator: torch.Generator) -> dict[str, Tensor]:
    x = torch.randn(4, 6, generator=generator)
    return {"x": x, "y": x[:, :3] * 2}


def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(tmp_path: Path) -> None:
    whole, halved = net(), net()
    straight = run_stage(whole, STAGE, batches, tmp_path / "a")
    first = run_stage(halved, STAGE, batches, tmp_path / "b", stop_at=5)
    torch.manual_seed(999)  # what happens between the two halves must not matter
    resumed = net()
    second = run_stage(resumed, STAGE, batches, tmp_path / "b")
    assert first + second == straight
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / "log.jsonl").open()]
    assert steps == list(range(12))


def test_only_the_named_parameters_train(tmp_path: Path) -> None:
    model, before = net(), net()
    run_stage(model, STAGE, batches, tmp_path)
    assert torch.equal(model.body.weight, before.body.weight)
    assert not torch.equal(model.head.weight, before.head.weight)
    assert freeze_except(model, ("head", "body.bias")) == 8 * 3 + 3 + 8
    with pytest.raises(ConfigError, match="'heads', which names no parameter; the model has body, head"):
        freeze_except(model, ("heads",))


def test_a_checkpoint_without_its_marker_is_ignored_and_another_stage_is_refused(tmp_path: Path) -> None:
    run_stage(net(), STAGE, batches, tmp_path, save_every=4)
    kept = checkpoint.complete(tmp_path)
    assert [p.name for p in kept] == ["step-00000008", "step-00000012"]
    (kept[-1] / checkpoint.MARKER).unlink()
    losses = run_stage(net(), STAGE, batches, tmp_path)
    assert len(losses) == 4
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()] == list(range(12))
    with pytest.raises(ConfigError, match="made with other settings"):
        run_stage(net(), replace(STAGE, optimizer=AdamW(lr=1.0)), batches, tmp_path)


def test_a_loss_that_is_not_a_number_names_the_step(tmp_path: Path) -> None:
    broken = replace(STAGE, objective=Squares(factor=float("nan")))
    with pytest.raises(ConfigError, match=r"stage fit: the loss is nan at step 0; lower lr=0\.01"):
        run_stage(net(), broken, batches, tmp_path)


@pytest.mark.parametrize("optimizer", [AdamW(lr=1e-2, weight_decay=0.1), SGD(lr=1e-2)])
def test_what_the_objective_holds_resumes_too(tmp_path: Path, optimizer: Any) -> None:
    stage = replace(STAGE, optimizer=optimizer)
    straight = run_stage(net(), stage, batches, tmp_path / "a")
    run_stage(net(), stage, batches, tmp_path / "b", stop_at=7)
    assert run_stage(net(), stage, batches, tmp_path / "b") == straight[7:]
    ends = [load_file(checkpoint.complete(tmp_path / name)[-1] / "objective.safetensors") for name in "ab"]
    assert ends[0]["calls"].item() == 12 and torch.equal(ends[0]["mean"], ends[1]["mean"])
    line = json.loads((tmp_path / "a" / "log.jsonl").open().readline())
    assert line["loss"] == pytest.approx(line["squares"] + line["mean"])


def test_buffers_of_parts_that_train_resume_too(tmp_path: Path) -> None:
    def normed() -> nn.Sequential:
        torch.manual_seed(3)
        return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3), nn.BatchNorm1d(3))

    stage = replace(STAGE, train=("0", "1"))  # the last norm is frozen, its statistics stay
    whole, halves = normed(), normed()
    run_stage(whole, stage, batches, tmp_path / "a")
    run_stage(normed(), stage, batches, tmp_path / "b", stop_at=7)
    run_stage(halves, stage, batches, tmp_path / "b")
    assert torch.equal(whole[0].running_mean, halves[0].running_mean) and whole[0].num_batches_tracked == 12
    assert not whole[2].running_mean.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": AdamW()}, "no published learning rate: give optimizer="),
        ({"schedule": None}, "no published schedule: give schedule="),
        ({"budget": Budget(batch=4, epochs=3)}, "its number of steps is not known; give budget="),
    ],
)
def test_what_was_not_published_must_be_given(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_stage(net(), replace(STAGE, **changes), batches, tmp_path)


def test_a_killed_run_goes_on_from_a_whole_checkpoint(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from dataclasses import replace\nfrom pathlib import Path\n"
        "import test_loop as t\n"
        "stage = replace(t.STAGE, budget=t.Budget(steps=100000))\n"
        f"t.run_stage(t.net(), stage, t.batches, Path({str(tmp_path)!r}), 2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        limit = time.monotonic() + 60
        while not checkpoint.complete(tmp_path) and time.monotonic() < limit:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = checkpoint.complete(tmp_path)
    assert found, "no checkpoint within a minute"
    step = int(found[-1].name.removeprefix("step-"))
    longer = replace(STAGE, budget=Budget(steps=100000))
    assert len(run_stage(net(), longer, batches, tmp_path, stop_at=step + 3)) == 3


def test_the_rate_warms_up_and_falls() -> None:
    rates = [STAGE.rate(step) for step in range(13)]
    assert rates[0] == pytest.approx(1e-2 / 3) and rates[2] == pytest.approx(1e-2) == pytest.approx(rates[3])
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[12] == pytest.approx(0)


def test_losses_equal_their_definitions() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 5, 4), nn.Linear(4, 9)
    labels = torch.tensor([[-100, 3, -100, 7, 1], [2, -100, -100, -100, 4]])
    wanted = [-head(hidden[b, t - 1]).log_softmax(-1)[labels[b, t]] for b in range(2) for t in range(1, 5)
              if labels[b, t] != -100]  # fmt: skip
    assert lm_head_loss(hidden, head, labels).item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-5)

    logits, right = torch.randn(3, 6), torch.zeros(3, 6, dtype=torch.bool)
    right[0, 1] = right[0, 4] = right[1, 0] = right[2, 5] = True
    chances = logits.softmax(-1)
    expected = torch.stack([-(chances[i] * right[i]).sum().log() for i in range(3)]).mean()
    assert names_loss(logits, right).item() == pytest.approx(expected.item(), abs=1e-5)

    left, other = (nn.functional.normalize(torch.randn(4, 3), dim=-1) for _ in range(2))
    apart = contrastive_loss(left, other, 0.1, torch.arange(4))
    scores = left @ other.T / 0.1
    plain = sum(nn.functional.cross_entropy(s, torch.arange(4)) for s in (scores, scores.T))
    assert apart.item() == pytest.approx(plain.item() / 2, abs=1e-5)
