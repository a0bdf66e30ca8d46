"""Attention pooling: the mean asks; heads divide the width.  Numbers: `polymodal check internvl`."""

import pytest
import torch

from polymodal.check.randomise import fill
from polymodal.connectors.attention_pool import AttentionPoolConfig
from polymodal.errors import ConfigError


@torch.no_grad()
def test_features_have_no_order_and_equal_ones_are_their_value() -> None:
    pool = AttentionPoolConfig(width=12, heads=3, out_width=5).build()
    fill(pool)
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool(x), pool(x.flip(1)), atol=1e-5, rtol=0)
    same = x[:, :1].expand(-1, 7, -1)
    torch.testing.assert_close(pool(same), pool.o_proj(pool.v_proj(pool.v_norm(x[:, 0]))), atol=1e-5, rtol=0)


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 12 must be a multiple of its 5 heads"):
        AttentionPoolConfig(width=12, heads=5, out_width=5)
