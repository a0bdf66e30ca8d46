"""AnyRes packing against transformers on sizes of every shape; all parameters random."""

import random

import pytest
import torch

from polymodal.check.randomise import fill, values
from polymodal.connectors.anyres import AnyResConfig, grids_of_pinpoints
from polymodal.data.tiles import best_grid
from polymodal.encoders.tiled import tile_counts
from polymodal.errors import ConfigError

TILE, SIDE, WIDTH = 20, 5, 12
PINPOINTS = [[20, 40], [40, 20], [40, 40], [60, 20], [20, 60]]


def test_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    rng = random.Random(0)
    sizes = [(rng.randint(1, 200), rng.randint(1, 200)) for _ in range(60)] + [(7, 7), (40, 20), (333, 10)]
    grids = grids_of_pinpoints(PINPOINTS, TILE)
    counts = tile_counts(sizes, TILE, grids)
    config = AnyResConfig(tile=TILE, side=SIDE, grids=grids)
    ours = config.build(8, WIDTH).eval()
    fill(ours)
    features = [values(f"features {i}", (count, SIDE**2, 8)) for i, count in enumerate(counts)]
    given = transformers.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": TILE, "patch_size": 4},
        image_grid_pinpoints=PINPOINTS,
    )
    theirs = type("Holder", (), {"config": given})()
    with torch.no_grad():
        projected = [ours.project(item) for item in features]
        pack = transformers.LlavaNextModel.pack_image_features
        wanted, lengths = pack(theirs, projected, torch.tensor(sizes), "default", ours.newline)
        found = ours(features, torch.tensor(sizes))
    assert [len(item) for item in found] == lengths.tolist() == [config.tokens_of(*size) for size in sizes]
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


def test_the_number_of_tiles_is_that_of_the_grid() -> None:
    grids = grids_of_pinpoints(PINPOINTS, TILE)
    assert best_grid(30, 10, TILE, grids) == (1, 2) or best_grid(30, 10, TILE, grids) == (1, 3)
    assert tile_counts([(20, 40), (100, 100)], TILE, grids) == [3, 5]


def test_a_picture_without_tiles_ends_with_one_newline() -> None:
    ours = AnyResConfig(tile=TILE, side=SIDE).build(8, WIDTH)
    found = ours([torch.zeros(1, 25, 8)], torch.tensor([[20, 20]]))[0]
    assert found.shape == (26, WIDTH) and torch.equal(found[-1], ours.newline)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 20 pixels, found \[20, 30\]"):
        grids_of_pinpoints([[20, 30]], TILE)
    ours = AnyResConfig(tile=TILE, side=SIDE).build(8, WIDTH)
    with pytest.raises(ConfigError, match="expected 5 x 5 features per tile, found 26"):
        ours([torch.zeros(3, 26, 8)], torch.tensor([[20, 40]]))
