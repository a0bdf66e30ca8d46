"""SIGKILL at random instants of saves loses nothing (scripts/kill_saves.py does it more often), nor a full disk."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_loop import STAGE, batches, net

from polymodal.errors import ConfigError, StorageError
from polymodal.train import checkpoint
from polymodal.train.loop import run_stage
from polymodal.train.optimizer import SGD

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_saves.py"


def test_five_kills_inside_of_saves_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "5", "--megabytes", "4", "--seed", "1"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0 and "5 kills" in done.stdout and "0 lost, 0 corrupt" in done.stdout, done


def test_a_write_that_fails_in_the_middle_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """Not a simulated error: the system refuses to let a file grow beyond a hundred bytes, as a full disk would."""
    first = run_stage(net(), STAGE, batches, tmp_path, stop_at=5)
    before = load_file(checkpoint.complete(tmp_path)[-1] / "model.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = (tmp_path / "log.jsonl").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (log + 1200, hard))  # the log may grow, the checkpoint may not
        with pytest.raises(StorageError, match=r"cannot write the checkpoint of step 7 .*step-00000005 is whole"):
            run_stage(net(), STAGE, batches, tmp_path, stop_at=7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-00000005"]
    assert not list(tmp_path.glob(".step-*"))
    after = load_file(checkpoint.complete(tmp_path)[-1] / "model.safetensors")
    assert all((before[name] == after[name]).all() for name in before)
    assert first + run_stage(net(), STAGE, batches, tmp_path) == run_stage(net(), STAGE, batches, tmp_path / "straight")


def test_the_checkpoint_of_another_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    run_stage(net(), STAGE, batches, tmp_path, stop_at=2)
    other = replace(STAGE, name="other", optimizer=SGD(lr=0.5))
    with pytest.raises(
        ConfigError, match=r"made with other settings \(stage\.name: .*other.*stage\.optimizer"
    ) as found:
        run_stage(net(), other, batches, tmp_path)
    assert "name another folder" in str(found.value) or "use another folder" in str(found.value)


def test_the_same_step_again_keeps_the_checkpoint_that_is_there(tmp_path: Path) -> None:
    run_stage(net(), STAGE, batches, tmp_path, stop_at=3)
    (path,) = checkpoint.complete(tmp_path)
    written = (path / checkpoint.MARKER).stat().st_mtime_ns

    def broken(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {name: each * float("nan") for name, each in batches(step, generator).items()}

    with pytest.raises(ConfigError, match=r"the loss is nan at step 3.*step-00000003"):
        run_stage(net(), STAGE, broken, tmp_path)
    assert checkpoint.complete(tmp_path) == [path] and (path / checkpoint.MARKER).stat().st_mtime_ns == written
