"""Changed weights are noticed however they change, and nothing else is taken for a change."""

import pytest
import torch
from torch import nn

from polymodal.nn.linear import Linear
from polymodal.nn.lora import apply_lora
from polymodal.nn.quantise import quantise_linears
from polymodal.nn.watch import WeightsWatch


def module() -> nn.Sequential:
    return nn.Sequential(Linear(4, 4), nn.BatchNorm1d(4), Linear(4, 4))


def step(part: nn.Module) -> None:
    optimiser = torch.optim.SGD(part.parameters(), lr=0.1)
    part(torch.randn(3, 4)).sum().backward()
    optimiser.step()


def replaced(part: nn.Module) -> None:
    part[0].weight = nn.Parameter(part[0].weight.detach())


def same_address(part: nn.Module) -> None:
    """A new parameter of equal bytes where the old one was, as after taking one adapter off and another on."""
    held = part[0].weight.detach()
    del part[0].weight
    part[0].weight = nn.Parameter(held)


CHANGES = {
    "optimiser": step,
    "in place": lambda part: nn.init.zeros_(part[2].bias),
    "loaded": lambda part: part.load_state_dict(module().state_dict()),
    "assigned": lambda part: part.load_state_dict(module().state_dict(), assign=True),
    "batch statistics": lambda part: part.train()(torch.randn(3, 4)),
    "dtype": lambda part: part.to(torch.bfloat16),
    "replaced": replaced,
    "same address": same_address,
    "adapters": lambda part: apply_lora(part, ["0"], rank=2, alpha=4),
    "quantised": quantise_linears,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_seen_once(change) -> None:
    part = module()
    watch = WeightsWatch(part)
    part.eval()(torch.randn(2, 4)).sum().backward()
    for parameter in part.parameters():
        parameter.requires_grad_(True)
    assert not watch.changed()
    change(part)
    assert watch.changed() and not watch.changed()


def test_weights_without_a_counter_can_be_watched() -> None:
    with torch.inference_mode():
        part = module()
    watch = WeightsWatch(part)
    assert not watch.changed()
    part[0] = Linear(4, 4)
    assert watch.changed()
