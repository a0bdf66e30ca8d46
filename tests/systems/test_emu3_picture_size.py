"""Pictures of any size against Emu3's processor, on a real picture and odd cuts of it; Chameleon's settings too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polymodal.data import hf_image
from polymodal.data.template import Special, Words
from polymodal.errors import ConfigError
from polymodal.systems.chameleon import checkpoint as chameleon
from polymodal.systems.emu3 import picture_size

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
CUTS = ((0, 0, 201, 133), (10, 5, 60, 131), (3, 3, 34, 34))


def pictures() -> list[Image.Image]:
    whole = Image.open(CAT).convert("RGB")
    return [whole, *(whole.crop(box) for box in CUTS)]


@pytest.mark.parametrize(
    "changes",
    [
        {"min_pixels": 64 * 64, "max_pixels": 96 * 96},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": 0.5, "max_pixels": 5000, "min_pixels": 100, "spatial_factor": 4},
        {"do_resize": False, "do_normalize": False},
    ],
)
def test_equals_the_library(changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    if isinstance(changes.get("image_std"), float):
        changes = {**changes, "image_std": [changes["image_std"]] * 3}
    theirs = transformers.Emu3ImageProcessor(**changes)
    transform = picture_size.transform_of(theirs.to_dict())
    assert transform == picture_size.transform_of(changes)
    expected = theirs(pictures(), return_tensors="pt")
    found = picture_size.padded([transform(picture) for picture in pictures()])
    assert torch.equal(found["image_sizes"], torch.as_tensor(expected["image_sizes"]))
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"].float(), atol=1 / 255, rtol=0)


def test_way_back_to_eight_bits() -> None:
    transform = picture_size.AnySizeTransform(factor=None)
    picture = pictures()[1]
    assert torch.equal(transform.picture(transform(picture)), torch.from_numpy(np.array(picture)))


def test_announces_its_size() -> None:
    transform = picture_size.AnySizeTransform(min_pixels=64, max_pixels=40 * 40)
    modality = picture_size.announced(transform, 8, "<image>", ("<begin>", "<open>"), ("<frame>", "<end>"))
    pixels = transform(pictures()[1])
    height, width = pixels.shape[1] // 8, pixels.shape[2] // 8
    assert modality.tokens(pixels) == height * (width + 1)
    assert callable(modality.before)
    assert modality.before(pixels) == (Special(name="<begin>"), Words(text=f"{height}*{width}"), Special(name="<open>"))


def test_chameleon_equals_the_library() -> None:
    transformers = pytest.importorskip("transformers")
    for changes in ({}, {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 40}}):
        theirs = transformers.ChameleonImageProcessorPil(**changes)
        transform = hf_image.transform_of(theirs.to_dict(), chameleon.PICTURES, square=False)
        assert transform == hf_image.transform_of(changes, chameleon.PICTURES, square=False)
        for picture in pictures():
            expected = torch.from_numpy(np.asarray(theirs(picture)["pixel_values"][0]))
            torch.testing.assert_close(transform(picture), expected.float(), atol=1 / 255, rtol=0)


def test_refusal() -> None:
    with pytest.raises(ConfigError, match="resample 5"):
        picture_size.transform_of({"resample": 5})
