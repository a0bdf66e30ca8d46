"""CLIP in the official layout, ViT and ResNet, against the official code run outside this project (check/fixtures)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import polymodal.check
from polymodal.assemblies.dual_encoder import DualEncoder
from polymodal.check import randomise
from polymodal.encoders import clip_openai, clip_resnet
from polymodal.errors import ConfigError

TOLERANCE = 1e-4  # float32, absolute
FIXTURES = Path(polymodal.check.__file__).parent / "fixtures"


def opened(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        facts = {key: json.loads(file.metadata()[key]) for key in ("shapes", "config")}
        return facts, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", ["clip_rn", "clip_vit"])
def test_equals_the_official_code(name: str) -> None:
    facts, tensors = opened(name)
    config = clip_openai.infer(facts["shapes"])
    assert config is not None
    stated = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["config"].items()}
    assert config == stated
    model = DualEncoder(
        {"image": clip_openai.image_of(config).build(), "text": clip_openai.text_of(config).build()},
        aliases={"image": "pixel_values", "text": "input_ids"},
    ).eval()
    state = randomise.state(facts["shapes"])
    for key in state:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
    model.load_state_dict(dict(clip_openai.keys(config).apply(state, model)))
    batch = {"image": tensors["inputs.image"], "text": tensors["inputs.text"]}
    with torch.no_grad():
        logits, features = model.logits(**batch), model.features(**batch)
    torch.testing.assert_close(logits, tensors["outputs.logits"], atol=TOLERANCE, rtol=0)
    for modality in batch:
        torch.testing.assert_close(features[modality], tensors[f"outputs.features.{modality}"], atol=TOLERANCE, rtol=0)


def test_resnet_refuses_other_sizes() -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        clip_resnet.ClipResNetConfig(width=8, depths=(1, 1, 1, 1), embed_width=4, image_size=40)
    model = clip_resnet.ClipResNetConfig(width=8, depths=(1, 1, 1, 1), embed_width=4, image_size=64, heads=2).build()
    with pytest.raises(ConfigError, match=r"\[N, 3, 64, 64\]"):
        model(torch.zeros(1, 3, 32, 64))


def test_other_files_are_not_clip() -> None:
    assert clip_openai.infer({"model.embed_tokens.weight": (4, 4)}) is None
