"""ImageBind against the official code, run outside this project (check/fixtures); all parameters random."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.check import randomise
from polymodal.check.fixture import read
from polymodal.encoders import imagebind_keys
from polymodal.errors import ConfigError
from polymodal.models.joint_embedding import JointEmbedding
from polymodal.weights.keytable import KeyTable

TOLERANCE = 1e-4  # float32, absolute; the largest vectors have length 20


def opened(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    about, tensors = read(name)
    return {key: json.loads(about[key]) for key in ("config", "shapes", "made")}, tensors


def loaded(facts: dict[str, Any]) -> JointEmbedding:
    model = JointEmbedding({m: imagebind_keys.imagebind(facts["config"], m) for m in imagebind_keys.MODALITIES}).eval()
    table = KeyTable()
    for modality in imagebind_keys.MODALITIES:
        table += imagebind_keys.keys(modality).prefixed(target=f"encoders.{modality}.")
    model.load_state_dict(dict(table.apply(randomise.state(facts["shapes"]), model)))
    return model


@pytest.mark.parametrize("name", ["imagebind", "imagebind_clips", "imagebind_larger"])
def test_equals_the_official_code(name: str) -> None:
    facts, tensors = opened(name)
    model = loaded(facts)
    batch = {key: randomise.values(key, shape) for key, shape in facts["made"].items()}
    if "in.text" in tensors:
        batch["text"] = tensors["in.text"]
    with torch.no_grad():
        found = model.features(**batch)
    for modality, vectors in found.items():
        expected = tensors[f"out.features.{modality}"]
        torch.testing.assert_close(vectors, expected, atol=TOLERANCE, rtol=0)
        assert expected.std() > 0.1


def test_config_is_read_off_the_shapes() -> None:
    facts, _ = opened("imagebind")
    found = imagebind_keys.infer(facts["shapes"])
    assert found is not None
    for key, value in found.items():
        if not key.endswith("_heads"):
            expected = {**imagebind_keys.DEFAULTS, **facts["config"]}[key]
            assert (list(value) if isinstance(value, tuple) else value) == expected, key
    assert imagebind_keys.infer({"visual.proj": [4, 4]}) is None


def test_published_size() -> None:
    with torch.device("meta"):
        model = JointEmbedding({m: imagebind_keys.imagebind(imagebind_keys.HUGE, m) for m in imagebind_keys.MODALITIES})
    assert sum(x.numel() for x in model.parameters()) == 1_200_781_057


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="vision_depth"):
        imagebind_keys.parse_config({"vision_depth": 3})
    with pytest.raises(ConfigError, match="video_frames"):
        imagebind_keys.parse_config({"video_frames": 4})
    model = JointEmbedding({"imu": imagebind_keys.imagebind({}, "imu")})
    with pytest.raises(ConfigError, match="250 patches, found 100"):
        model.features(imu=torch.zeros(1, 6, 800))
    with pytest.raises(ConfigError, match="takes imu"):
        model.features(depth=torch.zeros(1, 1, 224, 224))
