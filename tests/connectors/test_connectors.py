"""Linear, MLP and pooling connectors against torch's own modules, all parameters random; token counts."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polymodal.connectors.linear import ConnectorConfig, LinearConnectorConfig
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.connectors.pooling import AttentionPoolConfig, GridPoolConfig, MeanPoolConfig
from polymodal.connectors.resampler import ResamplerConfig
from polymodal.errors import ConfigError, UnknownName
from polymodal.nn.norm import LayerNormConfig

TOLERANCE = 1e-4  # float32, absolute
ALL: list[ConnectorConfig] = [
    LinearConnectorConfig(),
    LinearConnectorConfig(bias=False),
    MLPConnectorConfig(),
    MLPConnectorConfig(depth=3, hidden_width=7, activation="relu", norm=LayerNormConfig()),
    MeanPoolConfig(),
    GridPoolConfig(grid=(2, 2), project=MLPConnectorConfig()),
    AttentionPoolConfig(queries=3, heads=2, norm=LayerNormConfig()),
    ResamplerConfig(latents=5, depth=2, heads=2, head_dim=4, project=LinearConnectorConfig()),
]


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(1 + 0.3 * noise if name.endswith("norm.weight") else 0.4 * noise)


@pytest.mark.parametrize("config", ALL, ids=lambda config: type(config).__name__)
def test_shapes_token_counts_and_gradients(config: ConnectorConfig) -> None:
    model = config.build(6, 10)
    randomise(model, seed=0)
    features = torch.randn(2, 9, 6, requires_grad=True)
    result = model(features)
    assert result.shape == (2, config.tokens(9), 10)
    result.square().sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    alone = model(features[1:])  # items do not influence each other
    torch.testing.assert_close(alone, result[1:], atol=1e-5, rtol=0)
    assert model(features[:0]).shape == (0, config.tokens(9), 10)


def test_mlp_equals_sequential() -> None:
    model = MLPConnectorConfig(depth=3, hidden_width=7, norm=LayerNormConfig()).build(6, 10)
    theirs = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 7), nn.GELU(), nn.Linear(7, 10))
    randomise(model, seed=1)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), model.state_dict().values(), strict=True)))
    features = torch.randn(2, 5, 6)
    torch.testing.assert_close(model(features), theirs(features), atol=TOLERANCE, rtol=0)


def test_mlp_default_is_llavas() -> None:
    model = MLPConnectorConfig().build(1024, 4096)
    assert [tuple(layer.weight.shape) for layer in model.layers] == [(4096, 1024), (4096, 4096)]
    assert model.act is F.gelu


def test_mean_pool_is_the_mean() -> None:
    model = MeanPoolConfig().build(6, 10)
    features = torch.randn(2, 5, 6)
    expected = F.linear(features.sum(1) / 5, model.project.proj.weight, model.project.proj.bias)
    torch.testing.assert_close(model(features)[:, 0], expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=30)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), to=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_grid_pool_averages_its_cells(rows: int, columns: int, to: tuple[int, int]) -> None:
    model = GridPoolConfig(grid=to, source=(rows, columns)).build(3, 3)
    with torch.no_grad():
        model.project.proj.weight.copy_(torch.eye(3))
        model.project.proj.bias.zero_()
        features = torch.randn(2, rows * columns, 3)
        result = model(features).unflatten(1, to)
    maps = features.unflatten(1, (rows, columns))
    for i in range(to[0]):
        top, bottom = i * rows // to[0], -(-(i + 1) * rows // to[0])
        for j in range(to[1]):
            left, right = j * columns // to[1], -(-(j + 1) * columns // to[1])
            cell = maps[:, top:bottom, left:right].mean((1, 2))
            torch.testing.assert_close(result[:, i, j], cell, atol=1e-5, rtol=0)


def test_attention_pool_equals_torch() -> None:
    model = AttentionPoolConfig(queries=3, heads=2, norm=LayerNormConfig()).build(8, 10)
    randomise(model, seed=2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        parts = [model.attn.q_proj, model.attn.k_proj, model.attn.v_proj]
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.load_state_dict(model.attn.o_proj.state_dict())
    features = torch.randn(2, 9, 8)
    source = F.layer_norm(features, (8,), model.norm.weight, model.norm.bias)
    expected = model.project(theirs(model.queries.expand(2, -1, -1), source, source)[0])
    torch.testing.assert_close(model(features), expected, atol=TOLERANCE, rtol=0)


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ConfigError, match="10 features do not form a map of 3 x 3; drop the class token"):
        GridPoolConfig(grid=(2, 2)).tokens(10)
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        MLPConnectorConfig(depth=0)
    with pytest.raises(UnknownName, match="gellu"):
        MLPConnectorConfig(activation="gellu").build(2, 2)
