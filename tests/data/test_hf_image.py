"""Published picture settings against the library's own processors, on a real picture and odd cuts of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polymodal.data import hf_image
from polymodal.errors import ConfigError

transformers = pytest.importorskip("transformers")
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
CUTS = ((0, 0, 201, 133), (10, 5, 60, 131), (3, 3, 34, 34))
KINDS: list[tuple[str, dict[str, Any], bool, dict[str, Any]]] = [
    ("CLIPImageProcessorPil", hf_image.CLIP, False, {}),
    ("CLIPImageProcessorPil", hf_image.CLIP, False, {"size": 40, "crop_size": 36}),
    ("CLIPImageProcessorPil", hf_image.CLIP, False,
     {"size": {"shortest_edge": 31}, "crop_size": {"height": 44, "width": 37}}),
    ("CLIPImageProcessorPil", hf_image.CLIP, False, {"size": {"height": 30, "width": 50}, "do_center_crop": False}),
    ("ViTImageProcessorPil", hf_image.VIT, True, {}),
    ("ViTImageProcessorPil", hf_image.VIT, True, {"size": 48, "resample": 3, "image_mean": [0.1, 0.2, 0.3]}),
    ("BeitImageProcessorPil", hf_image.BEIT, True, {"size": 64, "do_center_crop": True, "crop_size": 56}),
    ("BeitImageProcessorPil", hf_image.BEIT, True, {"do_normalize": False}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "defaults", "square", "changes"), KINDS)
def test_equals_the_library(kind: str, defaults: dict[str, Any], square: bool, changes: dict[str, Any]) -> None:
    theirs = getattr(transformers, kind)(**changes)
    ours = hf_image.transform_of(theirs.to_dict(), defaults, square)
    assert ours == hf_image.transform_of(changes, defaults, square)
    picture = Image.open(CAT).convert("RGB")
    for image in (picture, *(picture.crop(box) for box in CUTS)):
        expected = torch.from_numpy(np.asarray(theirs(image)["pixel_values"][0]))
        torch.testing.assert_close(ours(image), expected, atol=1 / 255, rtol=0)


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="do_pad"):
        hf_image.transform_of({"do_pad": True}, hf_image.VIT)
    with pytest.raises(ConfigError, match="resample 5"):
        hf_image.transform_of({"resample": 5}, hf_image.VIT)
    with pytest.raises(ConfigError, match="longest_edge"):
        hf_image.transform_of({"size": {"shortest_edge": 3, "longest_edge": 9}}, hf_image.CLIP)
