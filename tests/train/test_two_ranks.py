"""Two processes with sharded models of every way of fusion: one sees a picture, the other does not.

The averaged gradients must be those that one process computes from both batches; neither may wait for the other for
ever.  float32, largest error 1e-5.
"""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded_models import KINDS, batches, build

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_average_what_one_process_computes(kind: str, tmp_path: Path) -> None:
    port, command = free_port(), [sys.executable, str(HERE / "sharded_run.py")]
    runs = [
        subprocess.Popen([*command, str(rank), "2", str(port), kind, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [run.communicate(timeout=100)[1] for run in runs]
    assert all(run.returncode == 0 for run in runs), "\n".join(errors)
    found = [torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2)]

    model = build(kind).train()
    wanted: dict[str, torch.Tensor] = {}
    reached: set[str] = set()
    for rank, batch in enumerate(batches(kind)):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        assert found[rank]["loss"] == pytest.approx(loss.item(), abs=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                reached.add(name)
                wanted[name] = wanted.get(name, 0) + parameter.grad / 2
    assert set(found[0]) == set(found[1]) and reached == set(found[0]) - {"loss"}
    for name in reached:
        for each in found:
            assert float((each[name] - wanted[name]).abs().max()) <= 1e-5, name
