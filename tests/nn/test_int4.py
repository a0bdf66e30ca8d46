"""int4 weights: packed and unpacked, as near as four bits allow, the same products on every processor."""

import ctypes
import shutil
import subprocess

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polymodal.backbones.llama import CONFIGS
from polymodal.nn.int4 import Int4Linear, fits, pack, quantise_groups, unpack
from polymodal.nn.linear import Linear
from polymodal.nn.native import library as native
from polymodal.nn.native.linear import call, few_rows
from polymodal.nn.quantise import Int8Linear, quantise_linears, quantised_numbers

compiled = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_what_is_packed_is_unpacked(blocks, groups, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, 16, (16 * blocks, 32 * groups), generator=generator, dtype=torch.uint8)
    scale = torch.randn(16 * blocks, groups, generator=generator).bfloat16()
    weight, scales = pack(steps, scale)
    assert weight.shape == (blocks, groups, 4, 64) and scales.shape == (blocks, groups, 16)
    expected = (steps.float() - 8) * scale.float().repeat_interleave(32, 1)
    assert torch.equal(unpack(weight, scales), expected)


def test_weights_are_nearer_than_with_the_largest_as_seven_steps() -> None:
    weight = random(48, 96)
    weight[5] = 0
    weight[6, 32:64] *= 1e-3  # each group has its own scale
    steps, scale = quantise_groups(weight)
    kept = unpack(*pack(steps, scale))
    largest = weight.unflatten(1, (-1, 32)).abs().amax(2, keepdim=True)
    wrong = (kept - weight).unflatten(1, (-1, 32)).abs()
    assert (kept[5] == 0).all() and (wrong <= largest / 7 * 1.41).all()  # what the widest scale may cut off
    plain = largest / 7
    nearest = (weight.unflatten(1, (-1, 32)) / plain.clamp_min(1e-9)).round() * plain
    assert (kept - weight).norm() < 0.95 * (nearest.flatten(1) - weight).norm()


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_product_is_that_of_the_kept_weights(rows: int, dtype: torch.dtype) -> None:
    plain = Linear(96, 32)
    small = Int4Linear.of(plain.weight, plain.bias)
    x = random(2, rows, 96)[:1]
    found = small(x.to(dtype)).double()
    kept = unpack(small.weight, small.scale).double()
    expected = x.to(dtype).double() @ kept.T + plain.bias
    # Few rows are rounded to 127 steps of the largest of each group.
    bound = x.abs().max() * kept.abs().sum(1) / 254 + 2**-7 * expected.abs()
    assert ((found - expected).abs() <= bound + 1e-4).all()
    assert list(small.parameters()) == [] and small.shape == (32, 96)


@compiled
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 16])
def test_products_of_the_library(rows: int) -> None:
    weight, bias, x = random(64, 160, seed=1), random(64, seed=2), random(rows, 160)
    small = Int4Linear.of(weight, bias)
    unit = x.unflatten(1, (-1, 32)).abs().amax(2, keepdim=True) / 127
    rounded = ((x.unflatten(1, (-1, 32)) / unit).round() * unit).flatten(1)
    with torch.inference_mode():
        found = few_rows(x, small.weight, small.scale, small.bias)
        torch.testing.assert_close(found, F.linear(rounded, unpack(small.weight, small.scale), bias), atol=2e-3, rtol=0)
        wide = few_rows(x, small.weight, small.scale.float(), small.bias)
        torch.testing.assert_close(wide, found, atol=1e-5, rtol=0)
        alone = [few_rows(row[None], small.weight, small.scale, small.bias) for row in x]
        assert torch.equal(torch.cat(alone), found)
        x[0, 40], x[-1, 3] = float("nan"), float("inf")
        broken = few_rows(x, small.weight, small.scale, small.bias)
    assert not broken[0].isfinite().any() and not broken[-1].isfinite().any()
    assert torch.equal(broken[1:-1], found[1:-1])


@compiled
@pytest.mark.parametrize("flags", [("-march=native", "-mno-avx512f"), ("-march=native", "-mno-avx512f", "-mno-avx2")])
def test_other_processors_give_the_same(flags, tmp_path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("the flags are gcc's")
    made = tmp_path / "other.so"
    command = [compiler, *native.FLAGS, *flags, str(native.SOURCE), "-o", str(made), "-lm"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this processor has other flags")
    other = native.prepared(ctypes.CDLL(str(made)))
    small, x = Int4Linear.of(random(80, 96, seed=1), random(80, seed=2)), random(5, 96)
    found, expected = (call(each, x, small.weight, small.scale, small.bias) for each in (other, native.library()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_only_what_divides_becomes_int4_and_never_a_head() -> None:
    model = nn.ModuleDict(
        {"a": Linear(64, 32), "narrow": Linear(64, 40), "odd": Linear(40, 32), "lm_head": Linear(64, 32)}
    )
    numbers = sum(p.numel() for p in model.parameters())
    assert quantise_linears(model, "int4") == 4 and quantise_linears(model, "int4") == 0
    kinds = [Int4Linear, Int8Linear, Int8Linear, Int8Linear]
    assert [type(part) for part in model.values()] == kinds and quantised_numbers(model) == numbers
    assert not fits(torch.empty(0, 32)) and fits(torch.empty(16, 32, device="meta"))
    meta = Int4Linear.of(torch.empty(32, 64, device="meta"))
    assert meta.weight.is_meta and meta.weight.shape == (2, 2, 4, 64)


@compiled
@torch.no_grad()
def test_a_decoder_writes_nearly_what_its_kept_weights_say() -> None:
    """All blocks in one call of the library, beside the same weights expanded and computed by torch."""
    torch.manual_seed(0)
    built = CONFIGS["smollm2-135m"].build().eval()
    built.quantise("int4")
    ids = torch.arange(5, 45).view(2, 20)
    positions = torch.arange(20)[None]
    with torch.inference_mode():
        expected = built(built.embed(ids), positions)
        cache = built.new_cache(2, 24)
        first = built(built.embed(ids[:, :18]), positions[:, :18], cache=cache)
        rest = built(built.embed(ids[:, 18:]), positions[:, 18:], cache=cache)
    found = torch.cat((first, rest), 1)
    assert (found - expected).norm() / expected.norm() < 0.02
