"""LLaMA-VID's tokens of a frame against the formula of the official code, and what is refused."""

import pytest
import torch

from polymodal.connectors.context_tokens import ContextTokensConfig
from polymodal.connectors.qformer import QFormerConfig
from polymodal.errors import ConfigError, PromptError

ASKED = QFormerConfig(width=8, depth=2, heads=2, ffn_width=12, source_width=6, queries=3, cross_every=2,
                      activation="gelu", eps=1e-12, text_mlp=True, vocab_size=20, positions=16)  # fmt: skip
FEATURES, IDS = torch.randn(5, 17, 6), torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
MASK = (IDS > 0).long()


@pytest.mark.parametrize("grid", [None, 1, 2])
@torch.no_grad()
def test_equals_the_formula(grid: int | None) -> None:
    config = ContextTokensConfig(qformer=ASKED, out_width=10, grid=grid)
    model = config.build()
    found = model(FEATURES, (2, 3), IDS, MASK)
    assert [tuple(item.shape) for item in found] == [(n * config.tokens(16), 10) for n in (2, 3)]
    for item, frames, row in zip(found, (FEATURES[:2], FEATURES[2:]), (0, 1), strict=True):
        for index, frame in enumerate(frames):
            asked = model.query(model.qformer(model.norm(frame[None]), IDS[row : row + 1], MASK[row : row + 1]))[0]
            patches = frame[1:]
            chosen = (asked @ model.key(patches).T / 6**0.5).softmax(-1) @ patches
            content = patches
            if grid is not None:
                cell = 4 // grid
                content = torch.stack([
                    patches.reshape(4, 4, 6)[r : r + cell, c : c + cell].mean((0, 1))
                    for r in range(0, 4, cell) for c in range(0, 4, cell)
                ])  # fmt: skip
            wanted = torch.cat((model.value(chosen.mean(0))[None], model.project(content[None])[0]))
            count = config.tokens(16)
            torch.testing.assert_close(item[index * count : (index + 1) * count], wanted, atol=1e-5, rtol=0)


def test_without_counts_every_frame_is_an_item() -> None:
    model = ContextTokensConfig(qformer=ASKED, out_width=10, grid=1).build()
    assert [len(item) for item in model(FEATURES)] == [2] * 5


def test_what_does_not_fit_is_refused() -> None:
    config = ContextTokensConfig(qformer=ASKED, out_width=10, grid=3)
    with pytest.raises(ConfigError, match="a grid of 3 a side does not divide 16 patches"):
        config.tokens(16)
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        ContextTokensConfig(qformer=ASKED, out_width=10, grid=0)
    model = ContextTokensConfig(qformer=ASKED, out_width=10, grid=1).build()
    with pytest.raises(PromptError, match=r"items of \[2, 2\] frames with 2 questions do not fit the 5 frames"):
        model(FEATURES, (2, 2), IDS, MASK)
    with pytest.raises(PromptError, match="with 2 questions"):
        model(FEATURES, None, IDS, MASK)
