"""NFNet against timm, run elsewhere (check/fixtures/nfnet): all parameters random, odd sides; the published F6."""

import json

import pytest
import torch

from polymodal.check import randomise
from polymodal.check.fixture import read
from polymodal.encoders import nfnet
from polymodal.errors import ConfigError


@torch.no_grad()
def test_equals_timm() -> None:
    about, stored = read("nfnet")
    model = nfnet.parse_config(json.loads(about["config"])).build().eval()
    weights = randomise.state(json.loads(about["shapes"]))
    model.load_state_dict(dict(nfnet.TIMM_KEYS.apply(weights, model)))
    found = model(stored["in.pixel_values"])
    expected = stored["out.features.image"]
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_f6_has_the_published_names_and_numbers() -> None:
    shapes = json.loads(read("nfnet")[0]["published_shapes"])
    with torch.device("meta"):
        model = nfnet.NFNetConfig().build()
    report = nfnet.TIMM_KEYS.check(shapes, model.state_dict())
    assert not report.problems
    made = dict(nfnet.TIMM_KEYS.apply({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}))
    assert {name: x.shape for name, x in made.items()} == {name: x.shape for name, x in model.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == 430_561_380
    assert nfnet.NFNetConfig(image_size=320).tokens == 100


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError, match="channels / 2 of 128"):
        nfnet.NFNetConfig(channels=(256, 512, 1536, 100))
    with pytest.raises(ConfigError, match="'gamma'"):
        nfnet.parse_config({"gamma": 1})
