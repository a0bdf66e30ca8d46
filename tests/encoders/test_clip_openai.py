"""CLIP in the official layout, ViT and ResNet, against the official code run outside this project (check/fixtures)."""

import json

import pytest
import torch

from polymodal.check import randomise
from polymodal.check.fixture import read
from polymodal.encoders import clip_openai, clip_resnet
from polymodal.errors import ConfigError
from polymodal.models.dual_encoder import DualEncoder

TOLERANCE = 1e-4  # float32, absolute


@pytest.mark.parametrize("name", ["clip_rn", "clip_vit"])
def test_equals_the_official_code(name: str) -> None:
    about, tensors = read(name)
    shapes = json.loads(about["shapes"])
    config = clip_openai.infer(shapes)
    assert config is not None
    model = DualEncoder(
        {"image": clip_openai.image_config(config).build(), "text": clip_openai.text_config(config).build()},
        aliases={"image": "pixel_values", "text": "input_ids"},
    ).eval()
    state = randomise.state(shapes)
    model.load_state_dict(dict(clip_openai.keys(config).apply(state, model)))
    batch = {"image": tensors["in.image"], "text": tensors["in.text"]}
    with torch.no_grad():
        logits, features = model(**batch).logits, model.features(**batch)
    torch.testing.assert_close(logits, tensors["out.logits"], atol=TOLERANCE, rtol=0)
    for modality in batch:
        torch.testing.assert_close(features[modality], tensors[f"out.features.{modality}"], atol=TOLERANCE, rtol=0)


def test_resnet_refuses_other_sizes() -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        clip_resnet.ClipResNetConfig(width=8, depths=(1, 1, 1, 1), embed_width=4, image_size=40)
    model = clip_resnet.ClipResNetConfig(width=8, depths=(1, 1, 1, 1), embed_width=4, image_size=64, heads=2).build()
    with pytest.raises(ConfigError, match=r"\[N, 3, 64, 64\]"):
        model(torch.zeros(1, 3, 32, 64))


def test_other_files_are_not_clip() -> None:
    assert clip_openai.infer({"model.embed_tokens.weight": (4, 4)}) is None
