"""Qwen-VL's adapter against torch's own attention, and its table of positions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polymodal.check import randomise
from polymodal.connectors.grid_attention import GridAttentionConfig
from polymodal.errors import ConfigError
from polymodal.nn.grid_table import resized, sines_2d


@torch.no_grad()
def test_equals_torch_attention_with_positions_on_keys_and_queries() -> None:
    ours = GridAttentionConfig(queries=4, heads=3).build(10, 24)
    randomise.fill(ours)
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.o_proj.state_dict())
    features = randomise.values("features", (2, 9, 10))
    values = ours.norm(F.linear(features, ours.proj.weight))
    grid = ours.positions.T.reshape(1, 24, 2, 2)
    grid = F.interpolate(grid, (3, 3), mode="bicubic", align_corners=False).flatten(2)[0].T
    queries = (ours.query_norm(ours.queries) + ours.positions).expand(2, -1, -1)
    expected = theirs(queries, values + grid, values)[0]
    expected = F.linear(
        F.layer_norm(expected, (24,), ours.out_norm.weight, ours.out_norm.bias, 1e-6), ours.out_proj.weight
    )
    torch.testing.assert_close(ours(features), expected, atol=1e-5, rtol=0)


def test_positions_say_column_then_row() -> None:
    table = sines_2d(3, 8).reshape(3, 3, 8)
    assert table.dtype == torch.float32
    for row in range(3):
        for column in range(3):
            halves = [[f(p / 100**k) for f in (torch.sin, torch.cos) for k in (0, 1)]
                      for p in (torch.tensor(float(column)), torch.tensor(float(row)))]  # fmt: skip
            torch.testing.assert_close(table[row, column], torch.tensor(halves).flatten())


def test_a_table_of_the_same_grid_is_left_alone() -> None:
    table = torch.randn(9, 4)
    assert resized(table, (3, 3), (3, 3)) is table


def test_grids_that_are_none_are_named() -> None:
    with pytest.raises(ConfigError, match="queries lie on a square grid; found 5"):
        GridAttentionConfig(queries=5)
    with pytest.raises(ConfigError, match="width 20 must be a multiple of 4 and of its 3 heads"):
        GridAttentionConfig(queries=4, heads=3).build(8, 20)
    with pytest.raises(ConfigError, match="expected features on a square grid, found 8"):
        GridAttentionConfig(queries=4, heads=2).build(8, 16)(torch.zeros(1, 8, 8))
