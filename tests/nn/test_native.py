"""The native library: the same numbers as torch's operators, a row's own whatever its neighbours, and never stale."""

import os
import shutil
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from polymodal.backbones import decoder as decoder_module
from polymodal.backbones.decoder import Decoder, DecoderBlockConfig
from polymodal.backbones.llama import CONFIGS
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.fuse import fuse_projections
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.native import library as native
from polymodal.nn.native.blocks import _UNLIKE, BlocksCache, _visible
from polymodal.nn.native.linear import few_rows
from polymodal.nn.quantise import quantise_rows
from polymodal.nn.rope import RopeConfig

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def model(heads: int = 4, kv_heads: int = 2, bias: bool = False, **changes) -> Decoder:
    base = CONFIGS["smollm2-135m"]
    block = base.blocks[0]
    attention = replace(
        block.attention, width=72, heads=heads, kv_heads=kv_heads, head_dim=20, qkv_bias=bias, **changes
    )
    block = replace(block, attention=attention, mlp=replace(block.mlp, width=72, ffn_width=100))
    rope = RopeConfig(head_dim=20, rotary_dim=12, interleaved=attention.interleaved)
    built = replace(base, vocab_size=90, width=72, blocks=(block,) * 3, rope=rope).build().eval()
    for index, parameter in enumerate(built.parameters()):
        parameter.copy_(random(*parameter.shape, seed=index) * 0.2 + (parameter.dim() == 1))
    return built


@torch.inference_mode()
def hidden(built: Decoder, x: torch.Tensor, mask: torch.Tensor | None = None, held: int = 5, use: bool = True):
    """After `held` tokens the others, by the library or by torch; (hidden states, all keys of the last layer)."""
    rows, count, _ = x.shape
    cache = built.new_cache(rows, 40)
    positions = torch.arange(count)[None]

    def part(first, last):
        seen = MaskSpec(attention_mask=None if mask is None else mask[:, :last])
        return built(x[:, first:last], positions[:, first:last], seen, cache=cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_module._NATIVE, "of", lambda *_: None)
        if held:
            part(0, held)
        if use:
            patch.undo()
            assert decoder_module._NATIVE.of(built, built.blocks) is not None
        out = part(held, count)
    assert cache.length == count
    return out, cache.layer(2).buffers[0][:, :, :count].clone()


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13, 16])
@pytest.mark.parametrize("out, width", [(37, 150), (64, 576), (5, 7)])
def test_products(rows, out, width) -> None:
    x, weight, bias = random(rows, width), random(out, width, seed=1), random(out, seed=2)
    small, scale = quantise_rows(weight)
    with torch.inference_mode():
        torch.testing.assert_close(few_rows(x, weight, None, bias), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)
        for each in (scale, scale.float()):
            expected = F.linear(x, small.float() * scale.float()[:, None])
            torch.testing.assert_close(few_rows(x, small, each), expected, atol=1e-4, rtol=1e-5)
        alone = torch.cat([few_rows(row[None], weight, None, bias) for row in x])
        assert torch.equal(alone, few_rows(x, weight, None, bias))


def test_torch_does_what_the_library_cannot() -> None:
    x, weight = random(2, 32), random(8, 32, seed=1)
    assert few_rows(x, weight) is None  # autograd may be asked for
    with torch.inference_mode():
        assert few_rows(random(17, 32), weight) is None
        assert few_rows(x.double(), weight.double()) is None
        assert few_rows(x, random(32, 8).T) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert few_rows(x, weight) is None


@pytest.mark.parametrize(
    "changes", [{}, {"heads": 3, "kv_heads": 3}, {"bias": True}, {"interleaved": True}, {"window": 4}]
)
@pytest.mark.parametrize("rows, count", [(1, 1), (1, 4), (3, 1), (3, 5)])
def test_blocks(changes, rows, count) -> None:
    built, x = model(**changes), random(rows, 5 + count, 72)
    for found, expected in zip(hidden(built, x), hidden(built, x, use=False), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_blocks_with_padding_fused_and_int8() -> None:
    built, x = model(), random(3, 8, 72)
    mask = torch.arange(8) >= torch.tensor([0, 3, 7])[:, None]  # the last row sees nothing before its last token
    expected = hidden(built, x, mask, use=False)[0]
    torch.testing.assert_close(hidden(built, x, mask)[0][mask[:, 5:]], expected[mask[:, 5:]], atol=2e-5, rtol=1e-4)
    fuse_projections(built)
    torch.testing.assert_close(hidden(built, x, mask)[0][mask[:, 5:]], expected[mask[:, 5:]], atol=2e-5, rtol=1e-4)
    built.quantise()
    found, expected = hidden(built, x)[0], hidden(built, x, use=False)[0]
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)  # torch's int8 product rounds to bfloat16


def test_a_row_is_the_same_in_company() -> None:
    built, x = model(), random(8, 2, 72)
    together = hidden(built, x, held=0)[0]
    alone = [hidden(built, row[None], held=0)[0][0] for row in x]
    assert all(map(torch.equal, alone, together))


def test_no_number_stays_no_number() -> None:
    built, x = model(), random(2, 6, 72)
    x[1, 5, 3] = float("nan")
    found = hidden(built, x)[0]
    assert found[1].isnan().all() and found[0].isfinite().all()


@pytest.mark.parametrize("change", ["in place", "data", "parameter", "part", "hook"])
def test_changes_are_noticed(change) -> None:
    built, x = model(), random(1, 6, 72)
    before = hidden(built, x)[0]
    attention = built.blocks[1].attn
    with torch.no_grad():
        if change == "in place":
            attention.o_proj.weight.mul_(2)
        elif change == "data":
            attention.o_proj.weight.data = attention.o_proj.weight.data * 2
        elif change == "parameter":
            attention.o_proj.weight = torch.nn.Parameter(attention.o_proj.weight * 2)
        elif change == "part":
            attention.o_proj = type("Double", (torch.nn.Module,), {"forward": lambda self, y, _: 2 * self.inner(y)})()
            attention.o_proj.inner = model().blocks[1].attn.o_proj
        else:
            attention.o_proj.register_forward_hook(lambda part, given, out: 2 * out)
    if change in {"part", "hook"}:
        with torch.inference_mode():
            assert decoder_module._NATIVE.of(built, built.blocks) is None
    else:
        found = hidden(built, x)[0]
        assert not torch.allclose(found, before, atol=1e-3)
        torch.testing.assert_close(found, hidden(built, x, use=False)[0], atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_other_blocks_are_left_to_torch() -> None:
    built = model()
    built.blocks[2].parallel = True
    cache = BlocksCache()
    assert cache.of(built, built.blocks) is None
    assert cache.of(built, built.blocks) is None
    fresh = model()
    assert BlocksCache().of(fresh, fresh.blocks) is not None


def test_without_a_compiler_or_when_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(native.Absent, match="no C compiler"):
        native.built(tmp_path)
    monkeypatch.setenv("POLYMODAL_NATIVE", "0")
    native.looked_for.cache_clear()
    assert native.library() is None
    native.looked_for.cache_clear()


def test_a_compiler_that_fails_and_a_file_of_others(monkeypatch, tmp_path) -> None:
    path = native.built(native.cache_folder())
    open_to_all = tmp_path / "kernels.so"
    shutil.copy(path, open_to_all)
    os.chmod(open_to_all, 0o777)
    with pytest.raises(native.Absent, match="another user"):
        native._loaded(open_to_all)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(native.Absent, match="failed"):
        native.built(tmp_path / "new")


def test_every_option_of_a_block_was_thought_of() -> None:
    """An option that kernels.c does not know must be refused in blocks.py; then it is added here."""

    def names(record: type) -> set[str]:
        return {each.name for each in fields(record)}

    assert names(PreparedMask) == {"causal", "allow", "empty", "query_scale", "kernel"}
    assert names(DecoderBlockConfig) == {
        "attention", "mlp", "norm", "mlp_norm", "cross", "cross_at", "order", "parallel", "residual_scale",
    }  # fmt: skip
    assert names(AttentionConfig) == {
        "width", "heads", "kv_heads", "head_dim", "qkv_bias", "out_bias", "q_norm", "k_norm", "scale", "window",
        "source_width", "interleaved", "prefix", "linears",
    }  # fmt: skip
    assert names(GatedMLPConfig) == {"width", "ffn_width", "activation", "bias", "linear", "down"}


def test_a_kernel_of_its_own_is_left_to_torch() -> None:
    """Whether or not one token is asked, where no mask would be needed."""
    mask = PreparedMask(kernel=lambda q, k, v, scale: q)
    assert all(_visible(mask, (queries, 4)) is _UNLIKE for queries in (1, 4))


def test_queries_that_are_scaled_by_their_place_are_left_to_torch() -> None:
    built, x = replace(model().config, log_scaled_from=4).build().eval(), random(2, 9, 72)
    assert torch.allclose(hidden(built, x)[0], hidden(built, x, use=False)[0], atol=1e-5)
