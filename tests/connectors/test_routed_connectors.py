"""The connectors of CogVLM, mPLUG-Owl2 and LLaMA-Adapter V2; their sums are checked against official code elsewhere."""

import numpy as np
import torch

from polymodal.check import randomise
from polymodal.connectors.abstractor import AbstractorConfig, sine_positions, sine_positions_2d
from polymodal.connectors.glu import GLUConnectorConfig
from polymodal.connectors.query_blocks import QueryBlocksConfig
from polymodal.encoders.vit import ViTBlockConfig
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig


@torch.no_grad()
def test_glu_puts_its_markers_around_every_item():
    config = GLUConnectorConfig(ffn_width=20)
    part = config.build(12, 16)
    randomise.fill(part)
    features = randomise.values("f", (2, 5, 12))
    found = part(features)
    assert found.shape == (2, config.tokens(5), 16)
    assert part.begin is not None and part.end is not None
    assert torch.equal(found[:, 0], part.begin.expand(2, -1)) and torch.equal(found[:, -1], part.end.expand(2, -1))
    bare = GLUConnectorConfig(ffn_width=20, markers=False)
    assert bare.tokens(5) == 5 and bare.build(12, 16)(features).shape == (2, 5, 16)


def test_sine_tables_equal_their_formula():
    width, grid = 12, 3
    rates = 1 / 10000 ** (np.arange(width // 4) / (width / 4))

    def half(position: int) -> np.ndarray:
        return np.concatenate((np.sin(position * rates), np.cos(position * rates)))

    plane = sine_positions_2d(grid, width, class_row=True)
    assert not plane[0].any()
    for row in range(grid):
        for column in range(grid):
            want = np.concatenate((half(column), half(row)))
            np.testing.assert_allclose(plane[1 + row * grid + column], want, atol=1e-6)
    line = sine_positions(torch.arange(4), 6)
    assert line.shape == (4, 6) and torch.equal(line[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))


@torch.no_grad()
def test_abstractor_ends_with_its_marker_and_may_go_without_positions():
    for grid in (3, None):
        config = AbstractorConfig(queries=4, depth=2, heads=2, ffn_width=10, grid=grid)
        part = config.build(12, 16)
        randomise.fill(part)
        found = part(randomise.values("f", (2, 10, 12)))
        assert found.shape == (2, config.tokens(10), 16) == (2, 5, 16)
        assert torch.equal(found[:, -1], part.end.expand(2, -1))
        assert any("positions" in name for name in part.state_dict()) == (grid is not None)


@torch.no_grad()
def test_query_blocks_give_their_queries_whatever_the_number_of_features():
    attention = AttentionConfig(width=16, heads=2, qkv_bias=True, out_bias=True)
    block = ViTBlockConfig(attention=attention, mlp=MLPConfig(width=16, ffn_width=32))
    part = QueryBlocksConfig(queries=3, width=16, blocks=(block,) * 2).build(12, 20)
    randomise.fill(part)
    few, many = part(randomise.values("a", (2, 5, 12))), part(randomise.values("b", (2, 9, 12)))
    assert few.shape == many.shape == (2, 3, 20)
    shuffled = randomise.values("b", (2, 9, 12))[:, torch.randperm(9)]
    torch.testing.assert_close(part(shuffled), many)  # nothing tells positions
