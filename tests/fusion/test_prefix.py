"""Gated prefix attention: nothing at gate zero, a softmax of its own per head otherwise."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from polymodal.backbones.decoder import DecoderConfig
from polymodal.backbones.llama import LlamaShape
from polymodal.check import randomise
from polymodal.errors import PromptError
from polymodal.fusion.prefix import BlankPicture, GatedPrefixConfig, RowPrompt
from polymodal.fusion.routing import RoutedDeltaConfig
from polymodal.nn.fuse import fuse_projections

BARE = LlamaShape(width=48, depth=2, heads=6, kv_heads=2, ffn_width=40, vocab_size=50).config()
POSITIONS = torch.arange(7)[None]


def prefixed(gain: bool) -> DecoderConfig:
    block = BARE.blocks[0]
    prefix = GatedPrefixConfig(length=3, gain=gain)
    return replace(BARE, blocks=(block, replace(block, attention=replace(block.attention, prefix=prefix))))


@torch.no_grad()
def test_prefix_with_gate_zero_equals_the_bare_decoder():
    model, bare = prefixed(gain=True).build(), BARE.build()
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if ".prefix." not in name})
    x = randomise.values("x", (2, 7, 48))
    assert torch.equal(model(x, POSITIONS, context=torch.randn(2, 3, 48)), bare(x, POSITIONS))


@torch.no_grad()
def test_prefix_is_a_second_softmax_gated_per_head():
    model: Any = prefixed(gain=False).build()
    randomise.fill(model)
    attention = model.blocks[1].attn
    x, extra = randomise.values("x", (2, 1, 48)), randomise.values("extra", (2, 3, 48))
    prompt = attention.prefix.prompt + extra
    q = attention.q_proj(x).view(2, 6, 8)
    k, v = (p(prompt).view(2, 3, 2, 8).repeat_interleave(3, 2) for p in (attention.k_proj, attention.v_proj))
    shares = (torch.einsum("bhe,bphe->bhp", q, k) / 8**0.5).softmax(-1)
    added = attention.prefix.gate.tanh()[:, None] * torch.einsum("bhp,bphe->bhe", shares, v)
    alone = attention.v_proj(x).view(2, 2, 8).repeat_interleave(3, 1)  # one token sees only itself
    want = attention.o_proj((alone + added).view(2, 1, 48))
    torch.testing.assert_close(attention(x, source=extra), want)


@torch.no_grad()
def test_a_prefix_keeps_its_projections_when_others_are_fused():
    model: Any = prefixed(gain=False).build()
    randomise.fill(model)
    x, context = randomise.values("x", (1, 7, 48)), randomise.values("c", (1, 3, 48))
    want = model(x, POSITIONS, context=context)
    assert fuse_projections(model) == 3 + 2 * 2
    torch.testing.assert_close(model(x, POSITIONS, context=context), want)


@torch.no_grad()
def test_low_rank_paths_of_the_published_model_are_left_out_and_int8_runs():
    model: Any = prefixed(gain=False).build()
    randomise.fill(model)
    prefix, q = model.blocks[1].attn.prefix, randomise.values("q", (2, 6, 4, 8))
    extra = randomise.values("e", (2, 3, 48))
    delta, other = (RoutedDeltaConfig(rank=2, kinds=None).build(48, 16) for _ in range(2))
    randomise.fill(delta)
    other.load_state_dict(delta.state_dict())
    other.lora_B.weight.zero_()
    assert torch.equal(prefix(q, delta, delta, extra, None), prefix(q, other, other, extra, None))
    x, context = randomise.values("x", (1, 7, 48)), randomise.values("c", (1, 3, 48))
    want = model(x, POSITIONS, context=context)
    model.quantise()
    assert (model(x, POSITIONS, context=context) - want).abs().max() < 0.2


def test_one_picture_a_row():
    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    assert BlankPicture(8)(batch)["pixel_values"].shape == (2, 3, 8, 8)
    assert BlankPicture(8)({**batch, "pixel_values": torch.ones(2, 3, 8, 8)}) == {}
    with pytest.raises(PromptError, match="one picture a row"):
        RowPrompt()({"image": torch.zeros(3, 4, 8)}, batch)
