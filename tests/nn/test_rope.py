"""Rotary positions against complex multiplication in float64 and, for M-RoPE, against transformers."""

import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.nn.rope import LinearScaling, NTKScaling, RopeConfig, StepNTKScaling, apply_rope


def rotate(x: torch.Tensor, angles: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Pairs of ``x [B, H, T, R]`` as complex numbers turned by ``angles [B, T, R / 2]``."""
    x = x.double()
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)[:, None]
    if interleaved:
        return torch.stack((turned.real, turned.imag), -1).flatten(-2)
    return torch.cat((turned.real, turned.imag), -1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [None, 6])
def test_equals_complex_rotation(interleaved: bool, rotary: int | None) -> None:
    config = RopeConfig(head_dim=10, theta=50.0, interleaved=interleaved, rotary_dim=rotary)
    x = torch.randn(2, 3, 7, 10)
    positions = torch.randint(0, 300, (2, 7))
    found = apply_rope(x, *config.build()(positions), interleaved)
    r = rotary or 10
    angles = positions[..., None].double() * 50.0 ** (-torch.arange(0, r, 2).double() / r)
    expected = torch.cat((rotate(x[..., :r], angles, interleaved), x[..., r:].double()), -1)
    assert (found - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("interleaved", [False, True])
def test_xpos_scores_shrink_with_the_distance(interleaved: bool) -> None:
    config = RopeConfig(head_dim=8, theta=50.0, interleaved=interleaved, xpos_base=16)
    q, k = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 6, 8)
    asking, seen = torch.tensor([[20, 21, 30, 47, 90]]), torch.tensor([[0, 3, 20, 21, 35, 90]])
    rope = config.build()
    turned = apply_rope(q, *rope(asking)[:2], interleaved), apply_rope(k, *rope(seen)[2:], interleaved)
    found = turned[0] @ turned[1].transpose(-1, -2)
    distance = (asking[:, :, None] - seen[:, None]).double()
    shares = (torch.arange(0, 8, 2).double() + 0.4 * 8) / (1.4 * 8)
    turns = torch.polar(shares ** (distance[..., None] / 16), distance[..., None] * 50.0 ** (-torch.arange(4) / 4))
    pairs = [torch.complex(*(x.double()[..., 0::2], x.double()[..., 1::2]) if interleaved else x.double().chunk(2, -1))
             for x in (q, k)]  # fmt: skip
    expected = (pairs[0][:, :, :, None] * pairs[1].conj()[:, :, None] * turns[:, None]).real.sum(-1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("base", [0, -1.0])
def test_xpos_needs_a_length(base: float) -> None:
    with pytest.raises(ConfigError, match="xpos_base"):
        RopeConfig(head_dim=8, xpos_base=base)
    with pytest.raises(ConfigError, match="xpos_base"):
        RopeConfig(head_dim=8, xpos_base=8, sections=(2, 2))


def test_sections_take_their_axis() -> None:
    positions = torch.randint(0, 90, (3, 2, 5))
    cos, sin = RopeConfig(head_dim=16, theta=100.0, sections=(2, 3, 3)).build()(positions)
    frequency = 100.0 ** (-torch.arange(0, 16, 2).double() / 16)
    axes = [0, 0, 1, 1, 1, 2, 2, 2]
    angles = torch.stack([positions[a].double() * frequency[i] for i, a in enumerate(axes)], -1)
    x = torch.randn(2, 4, 5, 16)
    assert (apply_rope(x, cos, sin) - rotate(x, angles, False)).abs().max() <= 1e-4


def test_equal_axes_are_plain_positions() -> None:
    positions = torch.arange(9)[None]
    plain = RopeConfig(head_dim=16).build()(positions)
    rope = RopeConfig(head_dim=16, sections=(2, 3, 3)).build()
    for given in (positions, positions.expand(3, 1, 9)):
        assert all(torch.equal(a, b) for a, b in zip(plain, rope(given), strict=True))


def test_sections_equal_transformers() -> None:
    source = pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    transformers = pytest.importorskip("transformers")
    settings = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]}
    config = transformers.Qwen2VLTextConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, rope_parameters=settings
    )
    positions = torch.randint(0, 50, (3, 2, 5))
    x = torch.randn(2, 4, 5, 16)
    theirs = source.Qwen2VLRotaryEmbedding(config)(x, positions)
    apply = source.apply_multimodal_rotary_pos_emb if theirs[0].dim() == 4 else source.apply_rotary_pos_emb
    expected = apply(x, x, *theirs, [2, 3, 3])[0] if theirs[0].dim() == 4 else apply(x, x, *theirs)[0]
    found = apply_rope(x, *RopeConfig(head_dim=16, theta=1000.0, sections=(2, 3, 3)).build()(positions))
    assert (found - expected).abs().max() <= 1e-4


def test_restarted_sections_equal_transformers_vision_rope() -> None:
    source = pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    rows, columns = torch.arange(12) // 4, torch.arange(12) % 4
    x = torch.randn(12, 2, 32)
    frequency = 10000.0 ** (-torch.arange(0, 16, 2).float() / 16)  # a quarter of the head for each axis
    angles = torch.cat((rows[:, None] * frequency, columns[:, None] * frequency), -1)
    twice = torch.cat((angles, angles), -1)
    expected = source.apply_rotary_pos_emb_vision(x, x, twice.cos(), twice.sin())[0]
    rope = RopeConfig(head_dim=32, sections=(8, 8), restart=True).build()
    cos, sin = rope(torch.stack((rows, columns))[:, None])
    found = apply_rope(x.transpose(0, 1)[None], cos, sin)[0].transpose(0, 1)
    assert (found - expected).abs().max() <= 1e-4


def test_scalings_leave_what_they_promise() -> None:
    positions = torch.arange(20)[None]
    plain = RopeConfig(head_dim=8).build()
    halved = RopeConfig(head_dim=8, scaling=LinearScaling(factor=2.0)).build()
    assert torch.allclose(halved(positions * 2)[0], plain(positions)[0], atol=1e-5)
    dynamic = RopeConfig(head_dim=8, scaling=NTKScaling(factor=4.0, trained_length=20)).build()
    assert torch.equal(dynamic(positions)[0], plain(positions)[0])
    fixed = RopeConfig(head_dim=8, scaling=NTKScaling(factor=4.0)).build()(positions)
    longer = RopeConfig(head_dim=8, theta=10000.0 * 4 ** (8 / 6)).build()(positions)
    assert torch.allclose(fixed[0], longer[0], atol=1e-6)


def test_frequencies_survive_a_cast_of_the_model() -> None:
    rope = RopeConfig(head_dim=64).build()
    far = torch.tensor([[4097]])
    cos, _ = rope(far, torch.bfloat16)
    assert cos.dtype == torch.bfloat16
    assert torch.equal(cos, rope(far)[0].bfloat16())


@pytest.mark.parametrize("bad", [{"rotary_dim": 5}, {"rotary_dim": 20}, {"sections": (1, 2)}, {"restart": True}])
def test_bad_settings(bad: dict) -> None:
    with pytest.raises(ConfigError):
        RopeConfig(head_dim=16, **bad)


def test_positions_must_fit_sections() -> None:
    with pytest.raises(ValueError, match="sections"):
        RopeConfig(head_dim=16).build()(torch.zeros(3, 1, 4))
    with pytest.raises(ValueError, match="sections"):
        RopeConfig(head_dim=16, sections=(4, 4)).build()(torch.zeros(3, 1, 4))


@pytest.mark.parametrize(("length", "stretch"), [(5, 1), (8, 1), (9, 3), (16, 3), (17, 7), (33, 15)])
def test_theta_grows_in_steps_beyond_the_trained_length(length: int, stretch: int) -> None:
    """The first Qwen: 2 ** ceil(log2(length / trained) + 1) - 1."""
    rope = RopeConfig(head_dim=6, scaling=StepNTKScaling(trained_length=8)).build()
    cos, _ = rope(torch.arange(length)[None])
    frequencies = (10000.0 * stretch ** (6 / 4)) ** -(torch.arange(0, 6, 2) / 6)
    expected = (torch.arange(length)[:, None] * frequencies).cos().repeat(1, 2)
    torch.testing.assert_close(cos[0, 0], expected, atol=1e-5, rtol=0)
    longer = torch.stack((torch.arange(40), torch.arange(40).clamp_max(length - 1)))
    torch.testing.assert_close(rope(longer)[0][1, 0, :length], expected, atol=1e-5, rtol=0)  # as alone
