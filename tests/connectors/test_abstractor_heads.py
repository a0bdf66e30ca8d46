"""The abstractor's heads divide its width, or it is not built."""

import pytest

from polymodal.connectors.abstractor import AbstractorConfig
from polymodal.errors import ConfigError


def test_a_width_that_does_not_divide_into_heads_is_named() -> None:
    with pytest.raises(ConfigError, match="a width of 48 does not divide into 5 heads"):
        AbstractorConfig(queries=2, depth=1, heads=5, ffn_width=8, grid=None).build(48, 16)
