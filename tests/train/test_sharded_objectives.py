"""Objectives that call a model several times, on two processes with sharded models: as one process computes them.

The teacher is sharded as the model is.  float32, largest error 1e-5 of a gradient.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded_objective import KINDS, batch, build
from test_two_ranks import free_port

from polymodal.check.record import MissingData

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Of each kind, what either process found."""
    try:
        batch(KINDS[0], 0)
    except MissingData as missing:
        pytest.skip(str(missing))
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    command = [sys.executable, str(HERE / "sharded_objective.py")]
    runs = [
        subprocess.Popen([*command, str(rank), "2", str(port), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [run.communicate(timeout=200)[1] for run in runs]
    assert all(run.returncode == 0 for run in runs), "\n".join(errors)
    return {kind: [torch.load(folder / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2)] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_average_what_one_process_computes(
    kind: str, found: dict[str, list[dict[str, torch.Tensor]]]
) -> None:
    wanted: dict[str, torch.Tensor] = {}
    for rank in range(2):
        model, loss = build(kind)
        torch.manual_seed(rank)
        losses = loss(model.train(), batch(kind, rank))
        torch.stack(list(losses.values())).sum().backward()
        for name, each in losses.items():
            assert found[kind][rank][name].item() == pytest.approx(each.item(), abs=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                wanted[name] = wanted.get(name, 0) + parameter.grad / 2
    assert set(wanted) <= set(found[kind][0])
    for name, each in wanted.items():
        for mine in found[kind]:
            assert float((mine[name] - each).abs().max()) <= 1e-5, name
