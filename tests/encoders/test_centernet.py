"""The detector: its published weights against TensorFlow.js' own answer, and the reading of its maps by definition."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from polymodal.data.media import Image
from polymodal.encoders.centernet import (
    CENTERNET_SOURCE,
    CENTERNET_VALUES,
    PUBLISHED_KEYS,
    CenterNetConfig,
    detections,
    doubled,
)
from polymodal.encoders.seen_and_found import surest
from polymodal.systems.mini.components import SCENE
from polymodal.weights.fetch import is_cached
from polymodal.weights.load import load_module, open_source

TESTS = Path(__file__).parents[1]
SIXTH = torch.tensor(1 / 6, dtype=torch.half).item()  # as the published file has it


@pytest.mark.assets
def test_the_published_weights_give_what_tensorflow_js_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (is_cached(CENTERNET_SOURCE) and is_cached(CENTERNET_VALUES)):
        pytest.skip("the detector's published files are not in the cache; `polymodal pull mini` fetches them")
    monkeypatch.setattr(F, "hardswish", lambda x: x * F.relu6(x + 3) * SIXTH)
    monkeypatch.setattr(F, "hardsigmoid", lambda x: F.relu6(x + 3) * SIXTH)
    right = json.loads((TESTS / "fixtures" / "centernet_cat.json").read_text())
    model = load_module(CenterNetConfig().build, open_source(CENTERNET_SOURCE), (PUBLISHED_KEYS,), dtype=torch.float32)
    with torch.inference_mode():
        heat, sides = model.eval()(SCENE(Image(str(TESTS.parent / "examples" / "cat.jpg")))[None])
    scores, kinds, boxes = (x[0] for x in detections(heat, sides, len(right["detections"])))
    expected = torch.tensor(right["detections"])
    assert kinds.tolist() == expected[:, 5].int().tolist()
    assert (scores - expected[:, 4]).abs().max() <= 1e-5
    assert (boxes - expected[:, :4]).abs().max() <= 2e-3  # pixels
    assert (heat[0].sum((1, 2)) - torch.tensor(right["heat"]["by_kind"])).abs().max() <= 1e-2
    assert (sides[0].mean((1, 2)) - torch.tensor(right["sides"])).abs().max() <= 2e-3


def test_maps_keep_their_sizes_and_every_parameter_counts() -> None:
    torch.manual_seed(0)
    model = CenterNetConfig().build()
    heat, sides = model(255 * torch.rand(2, 3, 64, 96))
    assert heat.shape == (2, 80, 16, 24) and sides.shape == (2, 4, 16, 24)
    (heat.sum() + sides.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_maps_grow_twofold_by_the_old_bilinear_rule() -> None:
    x = torch.rand(1, 2, 3, 5)
    larger = doubled(x)
    assert larger.shape == (1, 2, 6, 10)
    for row in range(6):
        for column in range(10):
            low = row // 2, column // 2
            high = min(low[0] + row % 2, 2), min(low[1] + column % 2, 4)
            corners = [x[..., i, j] for i in (low[0], high[0]) for j in (low[1], high[1])]
            assert torch.allclose(larger[..., row, column], sum(corners) / 4)


def test_peaks_become_things_with_their_boxes() -> None:
    heat, sides = torch.zeros(1, 3, 8, 8), torch.full((1, 4, 8, 8), 2.0)
    heat[0, 1, 3, 5], heat[0, 1, 3, 6], heat[0, 2, 6, 1] = 0.9, 0.8, 0.5  # the second lies beside a higher one
    sides[0, :, 3, 5] = torch.tensor([4.0, 8.0, 10.0, 6.0])
    scores, kinds, boxes = detections(heat, sides, 2)
    assert torch.allclose(scores, torch.tensor([[0.9, 0.5]])) and kinds.tolist() == [[1, 2]]
    assert boxes[0].tolist() == [[16, 4, 30, 18], [2, 22, 6, 26]]


def test_only_what_is_not_tiny_is_told_of() -> None:
    heat, sides = torch.zeros(1, 2, 8, 8), torch.full((1, 4, 8, 8), 1.0)
    heat[0, 0, 4, 4], heat[0, 1, 2, 2] = 0.9, 0.7
    sides[0, :, 2, 2] = 16.0  # reaches from -8 to 24 of 32 pixels: three quarters of a side are inside
    assert surest(heat, sides, 0.5).tolist() == [[0.0, pytest.approx(0.7)]]
    assert surest(heat, sides, 0.6).tolist() == [[0.0, 0.0]]
    assert surest(heat, sides, 0.0).tolist() == [[pytest.approx(0.9), pytest.approx(0.7)]]
