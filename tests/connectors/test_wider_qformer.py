"""The further queries are beside those the Q-Former has, and can be trained alone."""

import torch

from polymodal.check import randomise
from polymodal.connectors.qformer import QFormerConfig
from polymodal.connectors.wider_qformer import WiderQFormerConfig

CONFIG = QFormerConfig(width=24, depth=2, heads=4, ffn_width=36, source_width=20, queries=3)


def test_equal_to_one_wide_qformer():
    wider = WiderQFormerConfig(qformer=CONFIG, more=2, out_width=16).build().eval()
    randomise.fill(wider)
    features = randomise.values("features", (2, 7, 20))
    found = wider(features)
    assert found.shape == (2, wider.config.tokens, 16)
    with torch.no_grad():
        wider.qformer.queries = torch.nn.Parameter(torch.cat((wider.qformer.queries, wider.more)))
        wanted = wider.proj(wider.qformer(features))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_they_are_trained_alone():
    wider = WiderQFormerConfig(qformer=CONFIG, more=2, out_width=16).build()
    assert not wider.more.any()
    wider.requires_grad_(False)
    wider.more.requires_grad_(True)
    wider(randomise.values("features", (2, 7, 20))).square().sum().backward()
    assert wider.more.grad is not None and bool(wider.more.grad.any())
    assert [name for name, x in wider.named_parameters() if x.grad is not None] == ["more"]
