"""Queries that look inside a decoder: text behind them gets exactly zero; a text alone is the bare decoder's."""

from dataclasses import replace

import pytest
import torch

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.check.randomise import fill
from polymodal.errors import ConfigError
from polymodal.fusion.query_attention import QueryAttentionConfig
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig

PLAIN = DecoderBlockConfig(attention=AttentionConfig(width=16, heads=4), mlp=GatedMLPConfig(width=16, ffn_width=24))
LOOKING = QueryAttentionConfig(attention=AttentionConfig(width=16, heads=4, source_width=10), queries=3)


@torch.no_grad()
def test_only_queries_look() -> None:
    cross = LOOKING.build()
    fill(cross)
    x, seen = torch.randn(2, 8, 16), torch.randn(2, 5, 10)
    added = cross(x, seen)
    assert added.shape == x.shape and added[:, 3:].abs().max() == 0 and added[:, :3].abs().min() > 0
    torch.testing.assert_close(cross(x[:, :3], seen), added[:, :3])


@torch.no_grad()
def test_a_text_alone_is_the_bare_decoder_s() -> None:
    config = DecoderConfig(vocab_size=20, width=16, blocks=(PLAIN, PLAIN), rope=RopeConfig(head_dim=4))
    bare = config.build()
    fill(bare)
    looking = replace(config, blocks=(replace(PLAIN, cross=LOOKING, cross_at="middle"), PLAIN)).build()
    looking.load_state_dict(bare.state_dict(), strict=False)
    ids, places = torch.tensor([[3, 4, 5, 6]]), torch.arange(4)[None]
    assert torch.equal(looking(looking.embed(ids), places), bare(bare.embed(ids), places))
    features = torch.randn(1, 5, 10)
    changed = looking(looking.embed(ids), places, context=features)
    assert (changed - bare(bare.embed(ids), places)).abs().max() > 1e-4


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="source_width must be the width of the features"):
        QueryAttentionConfig(attention=AttentionConfig(width=16, heads=4), queries=3)
    with pytest.raises(ConfigError, match="one query at least"):
        replace(LOOKING, queries=0)
