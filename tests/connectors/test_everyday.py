"""The mixture of what was found, a classifier's everyday words and learned names, against its definition in loops."""

import math

import pytest
import torch

from polymodal.connectors.everyday import EverydayConfig
from polymodal.connectors.names import NamesConfig


def opened(gate: list[float], *facts: float) -> float:
    return 1 / (1 + math.exp(-sum(value * fact for value, fact in zip(gate, (1.0, *facts), strict=True))))


@pytest.mark.parametrize("kinds", [0, 3])
def test_what_was_found_and_seen_and_the_names_are_mixed_by_their_gates(kinds: int) -> None:
    torch.manual_seed(0)
    part = EverydayConfig(classes=5, kinds=kinds, extra=2).build(names=4, summary=6).eval()
    part.word_of.copy_(torch.tensor([4, 1, 4, 5, 0]))
    torch.nn.init.normal_(part.gate)
    if kinds:
        part.thing_of.copy_(torch.tensor([5, 2, 5]))
        torch.nn.init.normal_(part.found_gate)
    seen, learned = torch.randn(3, 5).softmax(-1), torch.randn(3, 4).log_softmax(-1)
    summary, things = torch.randn(3, 6), torch.rand(3, kinds)
    with torch.no_grad():
        found = part(things, seen, learned, summary)
        style = part.style(summary)
    assert torch.allclose(found.exp().sum(-1), torch.ones(3), atol=1e-5)
    for row in range(3):
        words = [0.0] * 6
        for index, word in enumerate(part.word_of.tolist()):
            words[word] += seen[row, index].item()
        facts = math.log(max(words)), learned[row].max().item(), style[row].item()
        share = opened(part.gate.tolist(), *facts)
        names = [share * words[i] + (1 - share) * (learned[row, i].exp().item() if i < 4 else 0.0) for i in range(6)]
        if kinds:
            odds = [p / (1 - p) for p in things[row].tolist()]
            facts = math.log(max(odds)), math.log(max(names)), style[row].item()
            share, names = opened(part.found_gate.tolist(), *facts), list(names)
            names = [(1 - share) * p for p in names]
            for p, word in zip(odds, part.thing_of.tolist(), strict=True):
                names[word] += share * p**2 / sum(q**2 for q in odds)
        for name in range(6):
            assert found[row, name].item() == pytest.approx(math.log(max(names[name], 1e-9)), abs=1e-4)


def test_each_kind_of_thing_has_a_chance_of_its_own() -> None:
    torch.manual_seed(0)
    part = EverydayConfig(classes=5, kinds=3, extra=2).build(names=4, summary=6).eval()
    part.thing_of.copy_(torch.tensor([5, 2, 0]))
    torch.nn.init.normal_(part.there_gate)
    names, summary, things = torch.randn(3, 6).log_softmax(-1), torch.randn(3, 6), torch.rand(3, 3)
    with torch.no_grad():
        there = part.there(things, names, summary)
        style = part.style(summary)
    assert there.shape == (3, 6) and bool((there[:, [1, 3, 4]] == 0).all())
    for row in range(3):
        for kind, name in enumerate(part.thing_of.tolist()):
            p = things[row, kind].item()
            facts = math.log(p / (1 - p)), names[row, name].item(), style[row].item()
            assert there[row, name].item() == pytest.approx(opened(part.there_gate.tolist(), *facts), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    part = EverydayConfig(classes=3, kinds=2, extra=1).build(names=2, summary=4).to(dtype)
    seen, things = torch.tensor([[1.0, 0.0, 0.0]], dtype=dtype), torch.tensor([[1.0, 0.0]], dtype=dtype)
    found = part(things, seen, torch.tensor([[0.0, -200.0]], dtype=dtype), torch.zeros(1, 4, dtype=dtype))
    there = part.there(things, found, torch.zeros(1, 4, dtype=dtype))
    assert bool(torch.isfinite(found).all()) and bool(torch.isfinite(there).all())


def test_the_connector_keeps_what_was_found_and_seen_out_of_its_summary() -> None:
    torch.manual_seed(0)
    shape = {"names": 4, "classes": 2, "key_width": 5, "class_width": 4, "cells": 2, "cell_width": 3, "top": 3}
    plain = NamesConfig(**shape).build(in_width=8, out_width=4)
    both = NamesConfig(**shape, everyday=EverydayConfig(classes=6, kinds=2, extra=3)).build(in_width=16, out_width=4)
    missing = both.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(name.startswith("everyday.") for name in missing)
    features, seen, things = torch.randn(2, 2, 8), torch.randn(2, 6).softmax(-1), torch.rand(2, 2)
    whole = torch.cat([torch.cat([things, seen], dim=-1)[:, None].expand(-1, 2, -1), features], dim=-1)
    summary = both.summary(whole)
    assert torch.equal(summary, plain.summary(features)) and torch.equal(summary, both.summary(features))
    with torch.no_grad():
        both.everyday.gate.copy_(torch.tensor([40.0, 0.0, 0.0, 0.0]))  # the words alone
        both.everyday.found_gate.copy_(torch.tensor([-40.0, 0.0, 0.0, 0.0]))
        both.everyday.word_of.copy_(torch.tensor([6, 6, 5, 5, 0, 0]))
        found = both.log_probs(whole, summary).exp()
        assert torch.allclose(found[:, 6], seen[:, :2].sum(-1), atol=1e-5)
        both.everyday.found_gate.copy_(torch.tensor([40.0, 0.0, 0.0, 0.0]))  # what was found alone
        both.everyday.thing_of.copy_(torch.tensor([4, 2]))
        found = both.log_probs(whole, summary).exp()
    assert torch.allclose(found[:, [4, 2]].sum(-1), torch.ones(2), atol=1e-5)
    both.set_names([[3], [4], [5], [6], [7], [8], [9]], 1, 2, torch.randn(12, 4))
    assert both(whole).shape == (2, 20, 4)
