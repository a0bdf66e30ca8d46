"""Transforms against Pillow plus arithmetic, and against transformers' Pillow-based image processors.

Two bars: equal to the written reference within 1e-6 (before the division by std), and within 1/255 (times
1/std) of transformers, whose processors do the same steps with rounding of their own.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from polymodal.data.media import Image
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, to_tensor
from polymodal.data.tiles import AspectTiles, GridTiles, best_grid, cut, fit_inside, grids_of, nearest_grid
from polymodal.data.transforms import (
    CropThenResize,
    PadToSquare,
    ShorterSideCrop,
    Squash,
    centre_box,
    fraction_box,
    shorter_side_size,
    transform_frames,
)
from polymodal.errors import ConfigError, MediaError

SIZES = [(300, 200), (200, 300), (97, 211), (224, 224), (640, 480), (31, 500), (1, 1), (225, 227)]


def noise(width: int, height: int) -> Pillow.Image:
    """Random low-frequency colours: resizing errors and shifts show, as they would on a photo."""
    random = np.random.default_rng(width * 1000 + height)
    small = random.integers(0, 256, (max(2, height // 7), max(2, width // 7), 3), dtype=np.uint8)
    return Pillow.fromarray(small).resize((width, height), Pillow.Resampling.BILINEAR)


def denormalised(values: torch.Tensor, mean, std) -> np.ndarray:
    """[..., 3, H, W] back to 0..1."""
    shape = (3, 1, 1)
    return (values * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)).numpy()


def unit(picture: Pillow.Image) -> np.ndarray:
    return np.asarray(picture).transpose(2, 0, 1) / 255.0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_shorter_side_crop_equals_pillow(size, interpolation):
    picture = noise(*size)
    transform = ShorterSideCrop(size=64, crop=56, interpolation=interpolation)
    width, height = size
    scaled = (64, int(64 * height / width)) if width <= height else (int(64 * width / height), 64)
    resized = picture.resize(scaled, getattr(Pillow.Resampling, interpolation.upper()))
    left, top = (scaled[0] - 56) // 2, (scaled[1] - 56) // 2
    found = transform(picture)
    assert found.shape == transform.shape == (3, 56, 56) and found.dtype == torch.float32
    expected = unit(resized.crop((left, top, left + 56, top + 56)))
    assert np.abs(denormalised(found, CLIP_MEAN, CLIP_STD) - expected).max() <= 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_shorter_side_crop_equals_transformers_clip(size):
    from transformers import CLIPImageProcessorPil

    picture = noise(*size)
    oracle = CLIPImageProcessorPil()(images=picture, return_tensors="pt")["pixel_values"][0]
    found = ShorterSideCrop()(picture)
    assert found.shape == oracle.shape
    assert np.abs(denormalised(found - oracle, (0.0,) * 3, CLIP_STD)).max() <= 1 / 255


@pytest.mark.parametrize("size", SIZES)
def test_squash_equals_transformers_siglip(size):
    from transformers import SiglipImageProcessorPil

    picture = noise(*size)
    oracle = SiglipImageProcessorPil(size={"height": 96, "width": 80})(images=picture, return_tensors="pt")
    transform = Squash(height=96, width=80)
    found = transform(picture)
    assert found.shape == transform.shape
    assert np.abs(denormalised(found - oracle["pixel_values"][0], (0.0,) * 3, HALF)).max() <= 1 / 255
    expected = unit(picture.resize((80, 96), Pillow.Resampling.BICUBIC))
    assert np.abs(denormalised(found, HALF, HALF) - expected).max() <= 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_pad_to_square_equals_transformers_llava(size):
    from transformers import LlavaImageProcessorPil

    picture = noise(*size)
    oracle = LlavaImageProcessorPil(
        do_pad=True, size={"height": 112, "width": 112}, crop_size={"height": 112, "width": 112}
    )(images=picture, return_tensors="pt")["pixel_values"][0]
    transform = PadToSquare(size=112)
    found = transform(picture)
    assert found.shape == transform.shape
    assert np.abs(denormalised(found - oracle, (0.0,) * 3, CLIP_STD)).max() <= 1 / 255


def test_pad_to_square_uses_the_colour_and_equals_pillow():
    picture = noise(90, 40)
    canvas = Pillow.new("RGB", (90, 90), (0, 0, 0))
    canvas.paste(picture, (0, 25))
    found = PadToSquare(size=48, colour=(0, 0, 0), mean=IMAGENET_MEAN, std=IMAGENET_STD)(picture)
    expected = unit(canvas.resize((48, 48), Pillow.Resampling.BICUBIC))
    assert np.abs(denormalised(found, IMAGENET_MEAN, IMAGENET_STD) - expected).max() <= 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_crop_then_resize_equals_the_lite_recipe(size):
    picture = noise(*size)
    side = max(1, int(224 / 256 * min(size)))
    left, top = (size[0] - side + 1) // 2, (size[1] - side + 1) // 2
    region = picture.crop((left, top, left + side, top + side)).resize((224, 224), Pillow.Resampling.BICUBIC)
    expected = (np.asarray(region).astype(np.float64).transpose(2, 0, 1) - 127) / 128
    found = CropThenResize()(picture)
    assert found.shape == (3, 224, 224)
    assert np.abs(found.numpy() - expected).max() <= 2e-6


@pytest.mark.parametrize("size", [(800, 300), (300, 800), (500, 500), (336, 336), (1200, 400), (33, 40)])
def test_grid_tiles_equal_transformers_llava_next(size):
    from transformers import LlavaNextImageProcessorPil

    picture = noise(*size)
    pinpoints = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    oracle = LlavaNextImageProcessorPil(
        image_grid_pinpoints=pinpoints, size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )(images=picture, return_tensors="pt")["pixel_values"][0]
    transform = GridTiles(tile=56)
    found = transform(picture)
    assert found.shape == oracle.shape == transform.shape(*size)
    assert np.abs(denormalised(found - oracle, (0.0,) * 3, CLIP_STD)).max() <= 1 / 255


@pytest.mark.parametrize("size", [(800, 300), (300, 800), (500, 500), (50, 50), (1200, 400), (33, 40)])
def test_aspect_tiles_equal_transformers_got_ocr2(size):
    from transformers import GotOcr2ImageProcessorPil

    picture = noise(*size)
    oracle = GotOcr2ImageProcessorPil(
        size={"height": 48, "width": 48}, crop_to_patches=True, min_patches=1, max_patches=6
    )(images=picture, return_tensors="pt")["pixel_values"]
    transform = AspectTiles(tile=48, max_tiles=6, mean=CLIP_MEAN, std=CLIP_STD)
    found = transform(picture)
    assert found.shape == oracle.shape == transform.shape(*size)
    assert np.abs(denormalised(found - oracle, (0.0,) * 3, CLIP_STD)).max() <= 1 / 255


def test_records_arrays_and_pictures_give_the_same():
    picture = noise(80, 60)
    transform = ShorterSideCrop(size=32, crop=32)
    expected = transform(picture)
    assert torch.equal(transform(np.asarray(picture)), expected)
    assert torch.equal(transform(Image(picture)), expected)
    frames = np.stack([np.asarray(picture)] * 2)
    assert torch.equal(transform_frames(transform, frames), torch.stack([expected] * 2))


def test_wrong_input_and_settings():
    for wrong in (np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4, 3)), Pillow.new("L", (4, 4)), "photo.jpg"):
        with pytest.raises(MediaError, match="expects"):
            Squash()(wrong)
    for build in (
        lambda: ShorterSideCrop(size=10, crop=11),
        lambda: AspectTiles(min_tiles=3, max_tiles=2),
        lambda: GridTiles(grids=()),
    ):
        with pytest.raises(ConfigError):
            build()


def test_very_long_strips_stay_small():
    strip = Pillow.new("RGB", (1, 40_000), (10, 20, 30))
    for transform in (ShorterSideCrop(), PadToSquare(), CropThenResize(), Squash(), GridTiles(), AspectTiles()):
        assert torch.isfinite(transform(strip)).all()


def test_half_rounding_differs_as_documented():
    assert centre_box(227, 224, 224, "floor")[0] == 1 and centre_box(227, 224, 224, "even")[0] == 2


# ---- geometry

sides = st.integers(1, 5000)


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(1, 512))
def test_shorter_side_geometry(width, height, size):
    new_width, new_height = shorter_side_size(width, height, size)
    assert min(new_width, new_height) == size
    assert (new_width <= new_height) == (width <= height) or new_width == new_height
    assert abs(max(new_width, new_height) - size * max(width, height) / min(width, height)) <= 1
    for rounding in ("floor", "even"):
        left, top, right, bottom = centre_box(new_width, new_height, size, rounding)
        assert left >= 0 and top >= 0 and right <= new_width and bottom <= new_height
        assert right - left == bottom - top == size
        assert abs(left - (new_width - right)) <= 1 and abs(top - (new_height - bottom)) <= 1


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(1, 512), st.integers(0, 64))
def test_fraction_box_geometry(width, height, size, border):
    left, top, right, bottom = fraction_box(width, height, size, border)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height and right - left == bottom - top


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(1, 600), st.integers(1, 12))
def test_tile_geometry_equals_transformers(width, height, tile, most):
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((height, width), (tile, tile), 1, most)
    assert nearest_grid(width, height, tile, 1, most) == (rows, columns)
    grids = grids_of(1, most)
    canvas = select_best_resolution((height, width), [(r * tile, c * tile) for r, c in grids])
    if canvas is not None:  # it finds none when every scaled side truncates to 0
        assert best_grid(width, height, tile, grids) == (canvas[0] // tile, canvas[1] // tile)


@settings(max_examples=200, deadline=None)
@given(sides, sides, sides, sides)
def test_fit_inside_touches_the_canvas(width, height, canvas_width, canvas_height):
    found = fit_inside(width, height, canvas_width, canvas_height)
    assert 1 <= found[0] <= canvas_width and 1 <= found[1] <= canvas_height
    assert found[0] == canvas_width or found[1] == canvas_height


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_cut_keeps_every_pixel_once(rows, columns, tile):
    canvas = np.random.default_rng(tile).integers(0, 256, (rows * tile, columns * tile, 3), dtype=np.uint8)
    pieces = cut(canvas, tile)
    assert len(pieces) == rows * columns
    bands = [np.concatenate(pieces[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
    assert np.array_equal(np.concatenate(bands, axis=0), canvas)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0.0, 1.0)] * 3), st.tuples(*[st.floats(0.05, 2.0)] * 3))
def test_folded_normalisation_equals_the_plain_one(mean, std):
    pixels = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    expected = (pixels.transpose(2, 0, 1) / 255.0 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    assert np.abs(to_tensor(pixels, mean, std).numpy() - expected).max() <= 1e-6 * 2 / min(std)
