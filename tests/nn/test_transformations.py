"""Fused projections give the same numbers and come apart again; int8 weights stay within their rounding."""

import pytest
import torch
from torch import nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.fuse import fuse_projections, split_projections
from polymodal.nn.linear import Linear
from polymodal.nn.lora import apply_lora
from polymodal.nn.mask import MaskSpec
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.quantise import Int8Linear, quantise_linears
from polymodal.nn.rope import RopeConfig


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5])
@torch.no_grad()
def test_fused_equals_separate(bias: bool, rows: int) -> None:
    attn = AttentionConfig(width=24, heads=6, kv_heads=2, qkv_bias=bias).build()
    mlp = GatedMLPConfig(width=24, ffn_width=40, bias=bias).build()
    model = nn.ModuleList([attn, mlp])
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(2, rows, 24)
    rope = RopeConfig(head_dim=4).build()(torch.arange(rows)[None])
    expected = attn(x, MaskSpec(), rope), mlp(x)
    assert fuse_projections(model) == 5
    assert fuse_projections(nn.ModuleList([Linear(2, 2)])) == 0
    assert (attn(x, MaskSpec(), rope) - expected[0]).abs().max() <= 1e-5
    assert (mlp(x) - expected[1]).abs().max() <= 1e-5
    assert "0.qkv_proj.weight" in model.state_dict()
    assert split_projections(model) == 5 and split_projections(model) == 0
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_what_cannot_be_fused_is_left() -> None:
    norm = RMSNormConfig()
    normed = AttentionConfig(width=8, heads=2, q_norm=norm, k_norm=norm).build()
    cross = AttentionConfig(width=8, heads=2, source_width=8).build()
    adapted = AttentionConfig(width=8, heads=2).build()
    apply_lora(adapted, ("q_proj",), 2, 2)
    assert fuse_projections(nn.ModuleList([normed, cross, adapted])) == 0


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_int8_is_within_its_rounding(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    plain = Linear(256, 96)
    plain.weight[5] = 0
    model = nn.ModuleList([plain])
    assert quantise_linears(model) == 1 and quantise_linears(model) == 0
    small = model[0]
    assert isinstance(small, Int8Linear) and small.weight.dtype == torch.int8
    x = torch.randn(2, rows, 256)[:1]
    found = small(x.to(dtype)).float()
    kept = small.weight.double() * small.scale.double()[:, None]
    assert (kept - plain.weight).abs().max() <= plain.weight.abs().max() / 127 * 0.52
    expected = x.to(dtype).double() @ kept.T + plain.bias
    scale = x.norm(dim=-1, keepdim=True) * kept.norm(dim=-1) + expected.abs()
    assert ((found - expected).abs() <= 2**-7 * scale + 1e-6).all()
    assert (found[..., 5] - plain.bias[5]).abs().max() <= 1e-2
    assert list(small.parameters()) == []


@torch.no_grad()
def test_int8_linears_of_any_width_stay_near_the_float_ones():
    for width in (16, 33, 40, 72):
        exact = Linear(width, 24)
        x = torch.randn(3, width)
        assert (Int8Linear.of(exact.weight, exact.bias)(x) - exact(x)).abs().max() < 0.1
