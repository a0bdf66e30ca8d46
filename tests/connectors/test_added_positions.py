"""Positions that are added behind an encoder, alone and in front of CogAgent's gated MLP."""

import pytest
import torch

from polymodal.check import randomise
from polymodal.connectors.added_positions import AddedPositionsConfig
from polymodal.connectors.glu import GLUConnectorConfig
from polymodal.errors import ConfigError


@torch.no_grad()
def test_every_item_gets_the_same_table():
    part = AddedPositionsConfig(count=3).build(4)
    features = randomise.values("f", (2, 3, 4))
    assert torch.equal(part(features), features), "it starts at zero"
    randomise.fill(part)
    assert torch.equal(part(features) - features, (features + part.table) - features)
    with pytest.raises(ConfigError, match=r"\[3, 4\].*\[2, 4\]"):
        part(features[:, :2])


@torch.no_grad()
def test_the_gated_mlp_adds_them_first():
    bare, placed = (GLUConnectorConfig(ffn_width=6, positions=count).build(4, 8) for count in (None, 3))
    randomise.fill(placed)
    bare.load_state_dict({name: value for name, value in placed.state_dict().items() if "positions" not in name})
    features = randomise.values("f", (2, 3, 4))
    assert torch.equal(placed(features), bare(features + placed.positions.table))
