"""Flat patches against the Pillow processors of transformers, on the cat and odd crops of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from polymodal.data.patches import MergedPatches, MergedVideo, RowPatches, smart_resize
from polymodal.errors import ConfigError, MediaError

CAT = Pillow.open(Path(__file__).parents[2] / "examples" / "cat.jpg").convert("RGB")
CROPS = [CAT, CAT.crop((3, 5, 120, 298)), CAT.crop((0, 0, 301, 77)), CAT.crop((10, 10, 31, 24))]
PIXEL = 1 / 255


def test_merged_patches_equal_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen2VLImageProcessorPil()
    ours = MergedPatches()
    found = [ours(picture) for picture in CROPS]
    wanted = theirs(CROPS, return_tensors="pt")
    assert torch.equal(torch.stack([item["grid"] for item in found]), wanted["image_grid_thw"])
    error = (torch.cat([item["patches"] for item in found]) - wanted["pixel_values"]).abs().max()
    assert error * 0.28 <= PIXEL  # back on the scale of pixels
    assert [ours.grid(*picture.size) for picture in CROPS] == [tuple(item["grid"].tolist()) for item in found]


def test_other_sizes_of_patch_and_bounds() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"shortest_edge": 40 * 40, "longest_edge": 90 * 90}
    theirs = transformers.Qwen2VLImageProcessorPil(patch_size=6, merge_size=3, temporal_patch_size=1, size=sizes)
    ours = MergedPatches(patch=6, merge=3, frames=1, min_pixels=1600, max_pixels=8100)
    wanted = theirs(CROPS, return_tensors="pt")
    found = torch.cat([ours(picture)["patches"] for picture in CROPS])
    torch.testing.assert_close(found, wanted["pixel_values"], atol=1e-5, rtol=0)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_are_whole_blocks_within_the_bounds(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(MediaError, match="too narrow"):
            smart_resize(height, width, 28, 56 * 56, 28 * 28 * 1280)
        return
    tall, wide = smart_resize(height, width, 28, 56 * 56, 28 * 28 * 1280)
    assert tall % 28 == 0 and wide % 28 == 0 and min(tall, wide) >= 28
    assert tall * wide >= 56 * 56


def test_a_picture_is_a_video_of_equal_frames() -> None:
    rules = MergedPatches(min_pixels=28 * 28, max_pixels=28 * 28 * 4)
    picture = CROPS[2]
    video = MergedVideo(patches=rules)
    twice = video.of_frames(np.stack([np.asarray(picture)] * 2))
    assert torch.equal(twice["patches"], rules(picture)["patches"])
    odd = video.of_frames(np.stack([np.asarray(picture)] * 3))
    assert odd["grid"].tolist() == [2, *rules(picture)["grid"].tolist()[1:]]


def test_frames_are_counted_as_published() -> None:
    video = MergedVideo()
    assert [video.count(found) for found in (1, 4, 5, 9, 768, 5000)] == [4, 4, 4, 8, 768, 768]


@pytest.mark.parametrize("limit", [(1920, 1080), (120, 90)])
def test_row_patches_equal_transformers(limit: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    size = {"width": limit[0], "height": limit[1]}
    theirs = transformers.FuyuImageProcessorPil(size=size, patch_size={"height": 30, "width": 30})
    ours = RowPatches(width=limit[0], height=limit[1])
    for picture in CROPS:
        found = ours(picture)
        made = theirs.preprocess([[picture]], return_tensors="pt")
        rows, columns = found["grid"].tolist()
        padded = np.asarray(made["images"][0][0])[:, : rows * 30, : columns * 30]
        wanted = torch.from_numpy(theirs.patchify_image(padded))
        assert found["patches"].shape == wanted.shape == (rows * columns, 2700)
        assert (found["patches"] - wanted).abs().max() * 0.5 <= PIXEL
        assert (rows, columns) == ours.grid(*picture.size)
        assert ours.scale(*picture.size) == pytest.approx(float(made["image_scale_factors"][0][0]))


def test_limits_of_broken_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match="not whole patches of 30"):
        RowPatches(width=100)
