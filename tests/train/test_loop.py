"""The training loop: stages, exact resumption, checkpoints that survive a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.losses import contrastive_loss, lm_head_loss, names_loss
from polymodal.train import checkpoint
from polymodal.train.loop import run_stage
from polymodal.train.recipe import Stage, freeze_except

STAGE = Stage(name="fit", data="noise", train=("head",), objective="mse", lr=1e-2, batch=4, steps=12, warmup=3, seed=5)


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


def batches(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(STAGE.batch, 6, generator=generator)
    return x, x[:, :3] * 2


def objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
    return (model(batch[0]) - batch[1]).square().mean(), {}


def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(tmp_path: Path) -> None:
    whole, halved = net(), net()
    straight = run_stage(whole, STAGE, batches, objective, tmp_path / "a")
    first = run_stage(halved, STAGE, batches, objective, tmp_path / "b", stop_at=5)
    torch.manual_seed(999)  # what happens between the two halves must not matter
    resumed = net()
    second = run_stage(resumed, STAGE, batches, objective, tmp_path / "b")
    assert first + second == straight
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / "log.jsonl").open()]
    assert steps == list(range(12))


def test_only_the_named_parameters_train(tmp_path: Path) -> None:
    model, before = net(), net()
    run_stage(model, STAGE, batches, objective, tmp_path)
    assert torch.equal(model.body.weight, before.body.weight)
    assert not torch.equal(model.head.weight, before.head.weight)
    assert freeze_except(model, ("head", "body.bias")) == 8 * 3 + 3 + 8
    with pytest.raises(ConfigError, match="'heads', which names no parameter; the model has body, head"):
        freeze_except(model, ("heads",))


def test_a_checkpoint_without_its_marker_is_ignored_and_another_stage_is_refused(tmp_path: Path) -> None:
    run_stage(net(), STAGE, batches, objective, tmp_path, save_every=4)
    kept = checkpoint.complete(tmp_path)
    assert [p.name for p in kept] == ["step-00000008", "step-00000012"]
    (kept[-1] / checkpoint.MARKER).unlink()
    losses = run_stage(net(), STAGE, batches, objective, tmp_path)
    assert len(losses) == 4
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()] == list(range(12))
    with pytest.raises(ConfigError, match="made with other settings"):
        run_stage(net(), replace(STAGE, lr=1.0), batches, objective, tmp_path)


def test_a_loss_that_is_not_a_number_names_the_step(tmp_path: Path) -> None:
    def broken(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return model(batch[0]).sum() * float("nan"), {}

    with pytest.raises(ConfigError, match="stage fit: the loss is nan at step 0"):
        run_stage(net(), STAGE, batches, broken, tmp_path)


def test_a_killed_run_goes_on_from_a_whole_checkpoint(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from dataclasses import replace\nfrom pathlib import Path\n"
        "import test_loop as t\n"
        f"t.run_stage(t.net(), replace(t.STAGE, steps=100000), t.batches, t.objective, Path({str(tmp_path)!r}), 2)\n"
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
    longer = replace(STAGE, steps=100000)
    assert len(run_stage(net(), longer, batches, objective, tmp_path, stop_at=step + 3)) == 3


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
