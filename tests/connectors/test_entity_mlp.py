"""Embeddings of entities: in order, by item, several for each."""

import pytest
import torch

from polymodal.connectors.entity_mlp import EntityMLPConfig
from polymodal.errors import ConfigError


@torch.no_grad()
def test_embeddings_of_an_entity_stand_together() -> None:
    config = EntityMLPConfig(hidden_width=12, embeddings=2)
    connector, entities = config.build(5, 7), torch.randn(2, 3, 5)
    scenes = connector(entities)
    assert scenes.shape == (2, 6, 7) and config.tokens(3) == 6
    rows = connector(entities.flatten(0, 1))
    torch.testing.assert_close(rows.view(2, 6, 7), scenes)
    first, second = connector(entities.flatten(0, 1), counts=(1, 5))
    assert first.shape == (2, 7)
    torch.testing.assert_close(second, rows[1:].flatten(0, 1))


def test_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="one embedding at least, found 0"):
        EntityMLPConfig(hidden_width=3, embeddings=0)
