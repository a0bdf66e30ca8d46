"""Linear kernels, norms, MLPs and activations against torch's own or the published formula."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from polymodal.errors import UnknownName
from polymodal.nn.activation import activation
from polymodal.nn.linear import linear
from polymodal.nn.mlp import GatedMLPConfig, MLPConfig
from polymodal.nn.norm import LayerNormConfig, OffsetRMSNormConfig, RMSNormConfig

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("shape", [(1, 1, 512), (512,), (2, 3, 512), (80, 512), (0, 512)])
@pytest.mark.parametrize("out", [320, 331])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_its_gradients_equal_torch(shape: tuple[int, ...], out: int, bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    w = torch.randn(out, 512, requires_grad=True)
    b = torch.randn(out, requires_grad=True) if bias else None
    inputs = [t for t in (x, w, b) if t is not None]
    with torch.no_grad():
        assert torch.allclose(linear(x, w, b), F.linear(x, w, b), atol=1e-4)
    ours, theirs = linear(x, w, b), F.linear(x, w, b)
    assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-4)
    weight = torch.randn_like(theirs)
    for a, e in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(a, e, atol=5e-4)


def test_linear_of_views_frozen_weights_and_half_precision() -> None:
    x, w = torch.randn(3, 700)[:, :512], torch.randn(512, 640)
    assert torch.allclose(linear(x, w.t()), x @ w, atol=1e-4)
    x = torch.randn(70, 512, requires_grad=True)
    frozen = torch.randn(320, 512)
    linear(x, frozen).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad[0], frozen.sum(0), atol=1e-3)
    half, weight = torch.randn(4, 512).bfloat16(), frozen.bfloat16()
    assert torch.equal(linear(half, weight), F.linear(half, weight))


def test_linear_under_checkpointing_and_functional_gradients() -> None:
    x, w = torch.randn(70, 512), torch.randn(320, 512)
    expected = torch.ones(70, 320).T @ x
    assert torch.allclose(torch.func.grad(lambda v: linear(x, v).sum())(w), expected, atol=1e-3)
    leaf = w.clone().requires_grad_()
    torch.utils.checkpoint.checkpoint(linear, x, leaf, use_reentrant=False).sum().backward()
    assert torch.allclose(leaf.grad, expected, atol=1e-3)


def random_norm(config: object) -> nn.Module:
    norm = config.build(24)  # type: ignore[attr-defined]
    for p in norm.parameters():
        nn.init.normal_(p)
    return norm


@torch.no_grad()
def test_norms_equal_their_formula() -> None:
    x = torch.randn(2, 3, 24) * 3 + 1
    scaled = x / (x.double().square().mean(-1, keepdim=True) + 1e-3).sqrt()
    rms = random_norm(RMSNormConfig(eps=1e-3))
    assert (rms(x) - scaled * rms.weight).abs().max() <= 1e-5
    offset = random_norm(OffsetRMSNormConfig(eps=1e-3))
    assert (offset(x) - scaled * (1 + offset.weight)).abs().max() <= 1e-5
    layer = random_norm(LayerNormConfig(eps=1e-3))
    centred = x.double() - x.double().mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * layer.weight + layer.bias
    assert (layer(x) - expected).abs().max() <= 1e-5
    assert LayerNormConfig(bias=False).build(24).bias is None


@pytest.mark.parametrize("config", [RMSNormConfig(), OffsetRMSNormConfig(), LayerNormConfig()])
@torch.no_grad()
def test_norms_compute_in_float32(config: object) -> None:
    norm = random_norm(config).bfloat16()
    x = torch.randn(2, 24).bfloat16()
    expected = norm.float()(x.float())
    assert norm.bfloat16()(x).dtype == torch.bfloat16
    assert torch.equal(norm(x), expected.bfloat16())


@torch.no_grad()
def test_mlps_equal_their_formula() -> None:
    x = torch.randn(2, 3, 12)
    plain = MLPConfig(width=12, ffn_width=20, out_width=7, activation="gelu").build()
    up, down = plain.up_proj, plain.down_proj
    expected = F.gelu(x @ up.weight.T + up.bias) @ down.weight.T + down.bias
    assert (plain(x) - expected).abs().max() <= 1e-5 and expected.shape[-1] == 7
    gated = GatedMLPConfig(width=12, ffn_width=20).build()
    gate = x @ gated.gate_proj.weight.T
    expected = (gate * gate.sigmoid() * (x @ gated.up_proj.weight.T)) @ gated.down_proj.weight.T
    assert (gated(x) - expected).abs().max() <= 1e-5
    types = torch.ones(2, 3, dtype=torch.long)
    assert torch.equal(gated(x, types), gated(x))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("quick_gelu", "quick_gelu"),
        ("gelu_tanh", "gelu_pytorch_tanh"),
        ("gelu_tanh", "gelu_new"),
        ("gelu", "gelu"),
        ("silu", "silu"),
        ("relu", "relu"),
        ("squared_relu", "relu2"),
    ],
)
def test_activations_equal_transformers(ours: str, theirs: str) -> None:
    x = torch.linspace(-6, 6, 400)
    expected = transformers.activations.ACT2FN[theirs](x)
    assert (activation(ours)(x) - expected).abs().max() <= 1e-5


def test_every_activation_without_weights_has_transformers_name() -> None:
    x = torch.linspace(-12, 12, 400)
    for name in set(transformers.activations.ACT2CLS) - {"prelu", "xielu"}:
        expected = transformers.activations.ACT2FN[name](x)
        assert (activation(name)(x) - expected).abs().max() <= 1e-5, name


def test_unknown_activation_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="'quick_gelu'"):
        activation("quickgelu")
