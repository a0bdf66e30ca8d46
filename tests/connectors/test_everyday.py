"""The mixture of a classifier's everyday words and learned names, against its definition written out by loops."""

import math

import pytest
import torch

from polymodal.connectors.everyday import EverydayConfig
from polymodal.connectors.names import NamesConfig


def test_words_and_names_are_mixed_by_the_gate() -> None:
    torch.manual_seed(0)
    part = EverydayConfig(classes=5, extra=2).build(names=4, summary=6).eval()
    part.word_of.copy_(torch.tensor([4, 1, 4, 5, 0]))
    torch.nn.init.normal_(part.gate)
    seen, learned = torch.randn(3, 9, 5).softmax(-1), torch.randn(3, 4).log_softmax(-1)
    summary = torch.randn(3, 6)
    with torch.no_grad():
        found = part(seen, learned, summary)
        style = part.style(summary)
    assert torch.allclose(found.exp().sum(-1), torch.ones(3), atol=1e-5)
    gate = part.gate.tolist()
    for row in range(3):
        words = [0.0] * 6
        for index, word in enumerate(part.word_of.tolist()):
            words[word] += seen[row, :, index].mean().item()
        best = math.log(max(words)), learned[row].max().item()
        share = 1 / (1 + math.exp(-(gate[0] + gate[1] * best[0] + gate[2] * best[1] + gate[3] * style[row].item())))
        for name in range(6):
            known = learned[row, name].exp().item() if name < 4 else 0.0
            expected = math.log(max(share * words[name] + (1 - share) * known, 1e-9))
            assert found[row, name].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    part = EverydayConfig(classes=3, extra=1).build(names=2, summary=4).to(dtype)
    seen = torch.tensor([[[1.0, 0.0, 0.0]]], dtype=dtype)
    found = part(seen, torch.tensor([[0.0, -200.0]], dtype=dtype), torch.zeros(1, 4, dtype=dtype))
    assert bool(torch.isfinite(found).all())


def test_the_connector_keeps_class_probabilities_out_of_its_summary() -> None:
    torch.manual_seed(0)
    shape = {"names": 4, "classes": 2, "key_width": 5, "class_width": 4, "cells": 2, "cell_width": 3, "top": 3}
    plain = NamesConfig(**shape).build(in_width=8, out_width=4)
    both = NamesConfig(**shape, everyday=EverydayConfig(classes=6, extra=3)).build(in_width=14, out_width=4)
    missing = both.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["everyday.gate", "everyday.word_of", "everyday.style.weight", "everyday.style.bias"]
    features, seen = torch.randn(2, 2, 8), torch.randn(2, 2, 6).softmax(-1)
    summary = both.summary(torch.cat([seen, features], dim=-1))
    assert torch.equal(summary, plain.summary(features))
    with torch.no_grad():
        both.everyday.gate.copy_(torch.tensor([40.0, 0.0, 0.0, 0.0]))  # the words alone
        both.everyday.word_of.copy_(torch.tensor([6, 6, 5, 5, 0, 0]))
        found = both.log_probs(torch.cat([seen, features], dim=-1), summary).exp()
    assert torch.allclose(found[:, 6], seen[..., :2].sum(-1).mean(-1), atol=1e-5)
    both.set_names([[3], [4], [5], [6], [7], [8], [9]], 1, 2, torch.randn(12, 4))
    assert both(torch.cat([seen, features], dim=-1)).shape == (2, 20, 4)
