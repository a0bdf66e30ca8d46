"""Two marks stand around what the Q-Former gives."""

import torch

from polymodal.check import randomise
from polymodal.connectors.framed_qformer import FramedQFormerConfig
from polymodal.connectors.qformer import QFormerConfig, QFormerConnectorConfig

CONFIG = QFormerConfig(width=24, depth=2, heads=4, ffn_width=36, source_width=20, queries=3)


@torch.no_grad()
def test_marks():
    framed = FramedQFormerConfig(qformer=CONFIG, out_width=16).build().eval()
    randomise.fill(framed)
    plain = QFormerConnectorConfig(qformer=CONFIG, out_width=16).build().eval()
    plain.load_state_dict({name: x for name, x in framed.state_dict().items() if name not in ("begin", "end")})
    features = randomise.values("features", (2, 7, 20))
    found = framed(features)
    assert found.shape == (2, framed.config.tokens, 16)
    assert torch.equal(found[:, 1:-1], plain(features))
    assert torch.equal(found[:, 0], framed.begin.expand(2, -1)) and torch.equal(found[:, -1], framed.end.expand(2, -1))
