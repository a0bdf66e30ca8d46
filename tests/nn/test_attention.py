"""Attention against torch's own multi-head module and a plain softmax; caches, windows, cross-attention."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.nn.attention import SHORT, Attention, AttentionConfig, AttentionLinears, attend
from polymodal.nn.cache import KVCache
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.rope import RopeConfig


def random_attention(config: AttentionConfig) -> Attention:
    torch.manual_seed(0)
    model = config.build().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize("source_width", [None, 20])
@torch.no_grad()
def test_equals_torch_multi_head_attention(source_width: int | None) -> None:
    config = AttentionConfig(width=24, heads=4, qkv_bias=True, out_bias=True, source_width=source_width)
    ours = random_attention(config)
    theirs = nn.MultiheadAttention(24, 4, batch_first=True, kdim=source_width, vdim=source_width).eval()
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    if source_width is None:
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
    else:
        for name, p in zip("qkv", parts, strict=True):
            getattr(theirs, f"{name}_proj_weight").copy_(p.weight)
    theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
    theirs.out_proj.load_state_dict(ours.o_proj.state_dict())
    x = torch.randn(2, 5, 24)
    source = None if source_width is None else torch.randn(2, 7, source_width)
    keys = x if source is None else source
    assert (ours(x, source=source) - theirs(x, keys, keys)[0]).abs().max() <= 1e-5
    padding = torch.ones(2, keys.shape[1], dtype=torch.bool)
    padding[0, 3:] = False
    spec = MaskSpec(causal=False, attention_mask=padding)
    expected = theirs(x, keys, keys, key_padding_mask=~padding)[0]
    assert (ours(x, spec, source=source) - expected).abs().max() <= 1e-5


def plain(model: Attention, x: Tensor, allow: Tensor) -> Tensor:
    """Grouped heads and norms by hand: every query head copies the key head of its group."""
    c = model.config
    q = model.q_norm(model.q_proj(x).view(*x.shape[:2], c.heads, c.size)).transpose(1, 2)
    k = model.k_norm(model.k_proj(x).view(*x.shape[:2], c.key_heads, c.size)).transpose(1, 2)
    v = model.v_proj(x).view(*x.shape[:2], c.key_heads, c.size).transpose(1, 2)
    k, v = (y.repeat_interleave(c.heads // c.key_heads, 1) for y in (k, v))
    weights = (q @ k.transpose(-1, -2) * c.scale).masked_fill(~allow, float("-inf")).softmax(-1)
    return model.o_proj((weights @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_grouped_heads_head_dim_norms_scale_and_window() -> None:
    norm = RMSNormConfig()
    config = AttentionConfig(width=24, heads=6, kv_heads=2, head_dim=10, q_norm=norm, k_norm=norm, scale=0.7, window=3)
    model = random_attention(config)
    x = torch.randn(2, 8, 24)
    distance = torch.arange(8)[:, None] - torch.arange(8)
    expected = plain(model, x, (distance >= 0) & (distance < 3))
    assert (model(x, MaskSpec()) - expected).abs().max() <= 1e-5
    cache = KVCache.allocate(1, 2, 2, 10, 8)
    for t in range(8):
        step = model(x[:, t : t + 1], MaskSpec(), cache=cache.layer(0))
        cache.advance(1)
        assert (step[:, 0] - expected[:, t]).abs().max() <= 1e-5
    both = plain(model, x, distance.abs() < 3)
    assert (model(x) - both).abs().max() <= 1e-5


@torch.no_grad()
def test_cross_attention_reads_its_source_once() -> None:
    model = random_attention(AttentionConfig(width=24, heads=4, kv_heads=2, source_width=12))
    x, source = torch.randn(2, 5, 24), torch.randn(2, 7, 12)
    visible = torch.rand(2, 5, 7) > 0.5
    visible[:, 0] = False
    expected = model(x, MaskSpec(causal=False, visible=visible), source=source)
    assert (expected[:, 0] == 0).all()
    cache = KVCache.allocate(1, 2, 1, 1, 0)
    calls = []
    model.k_proj.register_forward_hook(lambda *_: calls.append(1))
    first = model(x[:, :2], MaskSpec(causal=False, visible=visible[:, :2]), None, cache.layer(0), source)
    rest = model(x[:, 2:], MaskSpec(causal=False, visible=visible[:, 2:]), None, cache.layer(0))
    assert len(calls) == 1
    assert (torch.cat((first, rest), 1) - expected).abs().max() <= 1e-5
    cache.forget_sources()
    with pytest.raises(ValueError, match="source"):
        model(x, cache=cache.layer(0))


@torch.no_grad()
def test_reordered_and_truncated_cache_continues_as_if_never_left() -> None:
    model = random_attention(AttentionConfig(width=16, heads=4, kv_heads=2))
    rope = RopeConfig(head_dim=4).build()
    x = torch.randn(3, 6, 16)
    index = torch.tensor([2, 2, 0])

    def part(y: Tensor, start: int, cache: KVCache | None) -> Tensor:
        layer = None if cache is None else cache.layer(0)
        out = model(y, MaskSpec(), rope(torch.arange(start, start + y.shape[1])[None]), layer)
        if cache is not None:
            cache.advance(y.shape[1])
        return out

    cache = KVCache.allocate(1, 3, 2, 4, 6)
    part(x[:, :4], 0, cache)
    part(torch.randn(3, 2, 16), 4, cache)
    cache.truncate(4)
    cache.reorder(index)
    found = part(x[:, 4:], 4, cache)
    expected = part(torch.cat((x[index, :4], x[:, 4:]), 1), 0, None)[:, 4:]
    assert (found - expected).abs().max() <= 1e-5
    with pytest.raises(PromptError, match="7 tokens"):
        part(x[:, :1], 6, cache)
    with pytest.raises(ValueError, match="truncate"):
        cache.truncate(9)


def test_buffers_are_written_in_place() -> None:
    cache = KVCache.allocate(2, 1, 1, 4, 8)
    k = torch.randn(1, 1, 3, 4)
    keys, _ = cache.layer(0).update(k, k)
    start = keys.data_ptr()
    cache.advance(3)
    keys, values = cache.layer(0).update(k, k)
    assert keys.data_ptr() == start and keys.shape == (1, 1, 6, 4)
    assert torch.equal(values[:, :, 3:], k) and torch.equal(keys[:, :, :3], k)
    assert len(cache) == 2 and cache.layer(1).length == 3


def test_linears_fill_slots_and_configs_are_checked() -> None:
    linears = AttentionLinears(k=LinearConfig(bias=False))
    model = AttentionConfig(width=8, heads=2, qkv_bias=True, linears=linears).build()
    assert model.k_proj.bias is None and model.v_proj.bias is not None
    with pytest.raises(ConfigError, match="kv_heads"):
        AttentionConfig(width=8, heads=4, kv_heads=3)
    with pytest.raises(ConfigError, match="head_dim"):
        AttentionConfig(width=9, heads=2)
    assert replace(model.config, head_dim=6).size == 6


@pytest.mark.parametrize("keys", [SHORT, SHORT + 1])
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_half_precision_learns_what_float32_does(keys: int, autocast: bool, biased: bool) -> None:
    torch.manual_seed(0)
    q, seen = torch.randn(1, 4, 3, 32), torch.randn(1, 4, 3, 32)
    k, v = torch.randn(1, 2, keys, 32), torch.randn(1, 2, keys, 32)
    mask, bias = MaskSpec(causal=True).prepare(3, keys, torch.device("cpu")), torch.randn(1, 4, 1, keys)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        given = [each.to(dtype).requires_grad_() for each in (q, k, v)]
        out = attend(*given, mask.biased(bias.to(dtype), 3) if biased else mask)
        return [out, *torch.autograd.grad((out * seen.to(out.dtype)).sum(), given)]

    exact = gradients(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(torch.float32 if autocast else torch.bfloat16)
    assert found[0].dtype == torch.bfloat16
    for one, other in zip(found, exact, strict=True):
        assert (one.float() - other).norm() <= 0.03 * other.norm()
