"""Ferret's sampler against the official class (check/fixtures/ferret_sampler), and what is refused."""

import json
from dataclasses import replace

import pytest
import torch

from polymodal.check import randomise
from polymodal.check.fixture import read
from polymodal.connectors.region_sampler import RegionSamplerConfig, far_apart
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.ferret.checkpoint import CONNECTOR_KEYS
from polymodal.weights.keytable import KeyTable
from polymodal.weights.load import load_into

STAGES = ((16, 6), (8, 4))


def table() -> KeyTable:
    """The names of the connector alone."""
    rows = tuple(replace(row, targets=tuple(name.removeprefix("connectors.image.") for name in row.targets))
                 for row in CONNECTOR_KEYS.rows)  # fmt: skip
    return replace(CONNECTOR_KEYS, rows=rows)


@pytest.mark.parametrize("pool", ["max", "mean"])
@torch.no_grad()
def test_equals_the_official_class(pool: str) -> None:
    about, tensors = read("ferret_sampler")
    shapes = {name: tuple(shape) for name, shape in json.loads(about["shapes"]).items()}
    weights = {f"model.region_geo_sampler.{name}": x for name, x in randomise.state(shapes).items()}
    weights |= {"model.mm_projector.weight": torch.ones(10, 6), "model.mm_projector.bias": torch.ones(10)}
    model = RegionSamplerConfig(points=40, stages=STAGES, pool=pool).build(6, 10)
    load_into(model, weights, table())
    found = model(tensors["in.features"][[0, 0, 1]], tensors["in.points"])
    torch.testing.assert_close(found[:, 0], tensors[f"out.{pool}"], atol=1e-5, rtol=0)


def test_points_far_apart() -> None:
    line = torch.tensor([[[0.0, 0], [1, 0], [10, 0], [4, 0], [6, 0]]])
    assert far_apart(line, 4).tolist() == [[0, 2, 3, 4]]  # 4 is farther from 0 and 10 than 1; 6 as far as 4, later


def test_pictures_are_projected_and_wrong_points_refused() -> None:
    model = RegionSamplerConfig(points=40, stages=STAGES).build(6, 10)
    features = torch.randn(2, 16, 6)
    assert torch.equal(model(features), model.project(features))
    with pytest.raises(PromptError, match=r"region points: expected \[2, 40, 2\], found \[2, 39, 2\]"):
        model(features, torch.rand(2, 39, 2))
    with pytest.raises(ConfigError, match="a stage keeps 50 points with 6 neighbours of 40"):
        RegionSamplerConfig(points=40, stages=((50, 6),))
    with pytest.raises(ConfigError, match="pool must be max or mean, found 'sum'"):
        RegionSamplerConfig(pool="sum")
