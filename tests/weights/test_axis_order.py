"""Rows of q and k for rope on two axes: turning them is turning the heads themselves."""

import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.nn.rope import RopeConfig, apply_rope
from polymodal.weights.operations import AxisOrder


def test_equal_to_two_ropes_of_half_a_head():
    heads, size, time = 3, 16, 5
    states = torch.randn(1, heads, time, size)
    places = torch.stack((torch.arange(time), torch.tensor([0, 0, 1, 2, 3])))[:, None]
    halves = [apply_rope(part, *RopeConfig(head_dim=size // 2).build()(axis))
              for part, axis in zip(states.chunk(2, -1), places, strict=True)]  # fmt: skip
    order = AxisOrder(heads)
    rows = states.transpose(1, 2).flatten(2)[0].T  # [H*E, T], as rows of a projection
    turned = order(rows).T.unflatten(1, (heads, size)).transpose(0, 1)[None]
    rope = RopeConfig(head_dim=size, sections=(4, 4), restart=True).build()
    found = apply_rope(turned, *rope(places))
    back = order.inverse()(found[0].transpose(0, 1).flatten(1).T).T.unflatten(1, (heads, size)).transpose(0, 1)
    assert torch.allclose(back, torch.cat(halves, -1)[0], atol=1e-6)
    with pytest.raises(ConfigError, match="four quarters"):
        order(torch.zeros(20, 2))
