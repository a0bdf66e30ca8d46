"""The output projector against torch's own nn.Transformer, which is what the official classes are made of."""

import torch
from torch import Tensor, nn

from polymodal.check.randomise import fill, values
from polymodal.generators.query_projector import QueryProjectorConfig, official_keys


class Official(nn.Module):
    """The layout of GILL's and NExT-GPT's layer: names and order as published."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, 32)
        self.tfm = nn.Transformer(
            32, nhead=4, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=128, dropout=0.0,
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.model = nn.Linear(32, 20)
        self.query_embs = nn.Parameter(torch.randn(1, 7, 32))

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        return self.model(self.tfm(self.fc(x + more), self.query_embs.repeat(len(x), 1, 1)))


def test_equals_the_official_layer() -> None:
    theirs = Official().eval()
    fill(theirs)
    config = QueryProjectorConfig(in_width=24, out_width=20, queries=7, width=32, depth=2, ffn_width=128)
    ours = config.build().eval()
    ours.load_state_dict(dict(official_keys().apply(theirs.state_dict(), ours)))
    states, embeddings = values("states", (3, 4, 24)), values("embeddings", (3, 4, 24))
    with torch.no_grad():
        expected = theirs(states, embeddings)
        torch.testing.assert_close(ours(states, embeddings), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1
