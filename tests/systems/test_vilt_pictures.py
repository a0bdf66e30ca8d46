"""Pictures of ViLT, BLIP, ALBEF and FLAVA as the library prepares them, on a photo and crops of odd sizes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from polymodal.data.hf_image import transform_of
from polymodal.generators.dalle_codec import map_pixels
from polymodal.pipelines.image_text_matching import BLIP_PICTURES, FLAVA_PICTURES, FLAVA_TOKENS
from polymodal.systems.vilt.limited_sides import LimitedSides, limited_of, padded

transformers = pytest.importorskip("transformers")
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
STEP = 1 / 255


def pictures() -> list[Image.Image]:
    whole = Image.open(CAT).convert("RGB")
    width, height = whole.size
    return [whole, whole.crop((0, 0, width, height // 3)), whole.crop((3, 5, 3 + 101, 5 + 77))]


def test_vilt_sizes_pixels_and_masks_equal_the_library() -> None:
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    wanted = ViltImageProcessorPil()(pictures(), return_tensors="pt")
    found = padded([LimitedSides()(picture) for picture in pictures()])
    assert found["pixel_values"].shape == wanted["pixel_values"].shape
    assert (found["pixel_mask"] == wanted["pixel_mask"]).all()
    assert (found["pixel_values"] - wanted["pixel_values"]).abs().max() <= 2 * STEP
    small = ViltImageProcessorPil(size={"shortest_edge": 64}, size_divisor=16)
    wanted = small(pictures(), return_tensors="pt")
    found = padded([limited_of(small.to_dict())(picture) for picture in pictures()])
    assert (found["pixel_values"] - wanted["pixel_values"]).abs().max() <= 2 * STEP


def test_blip_squashes_as_the_library() -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    for picture in pictures():
        wanted = BlipImageProcessorPil()(picture, return_tensors="pt")["pixel_values"][0]
        found = transform_of({}, BLIP_PICTURES)(picture)
        assert (found - torch.as_tensor(wanted)).abs().max() <= STEP / 0.26


def test_flava_pictures_and_codebook_pixels_equal_the_library() -> None:
    from transformers.models.flava.image_processing_pil_flava import FlavaImageProcessorPil

    for picture in pictures():
        wanted = FlavaImageProcessorPil()(picture, return_codebook_pixels=True, return_tensors="pt")
        found = transform_of({}, FLAVA_PICTURES)(picture)
        assert (found - torch.as_tensor(wanted["pixel_values"][0])).abs().max() <= STEP / 0.26
        found = map_pixels(transform_of({}, FLAVA_TOKENS)(picture))
        assert (found - torch.as_tensor(wanted["codebook_pixel_values"][0])).abs().max() <= STEP
