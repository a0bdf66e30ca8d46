"""CLIP's text encoder against transformers; all parameters random, rows of unequal length."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from polymodal.check.randomise import fill
from polymodal.encoders import clip_text
from polymodal.errors import ConfigError

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4  # float32, absolute

SMALL = {
    "vocab_size": 99, "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 17, "eos_token_id": 98, "projection_dim": 20,
}  # fmt: skip
IDS = torch.tensor([[97, 5, 6, 7, 98, 1], [97, 8, 98, 1, 1, 1], [97, 9, 98, 5, 98, 4]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"eos_token_id": 2},
        {"eos_token_id": 50},
        {"hidden_act": "gelu", "layer_norm_eps": 1e-3, "num_hidden_layers": 1, "num_attention_heads": 1},
    ],
)
def test_equals_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**{**SMALL, **changes})).eval()
    fill(theirs)
    theirs.save_pretrained(tmp_path)
    config = replace(clip_text.parse_config(theirs.config.to_dict()), out_width=20)
    ours = config.build().eval()
    table = clip_text.hf_keys(config)
    ours.load_state_dict(dict(table.apply(load_file(tmp_path / "model.safetensors"), ours)))
    with torch.no_grad():
        for extra in ({}, {"attention_mask": MASK}, {"position_ids": torch.arange(3, 9)[None]}):
            expected = theirs(IDS, **extra)
            features = ours(IDS, **extra)
            real = MASK.bool() if "attention_mask" in extra else torch.ones_like(MASK, dtype=torch.bool)
            torch.testing.assert_close(features[real], expected.last_hidden_state[real], atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(ours.joint(IDS, **extra), expected.text_embeds, atol=TOLERANCE, rtol=0)
            assert expected.text_embeds.std() > 0.2


def test_absent_keys_take_the_librarys_defaults() -> None:
    assert clip_text.parse_config({}) == clip_text.parse_config(transformers.CLIPTextConfig().to_dict())


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="eos_token_id"):
        clip_text.parse_config({"eos_token_id": [1, 2]})
    tower = clip_text.parse_config(SMALL).build()
    with pytest.raises(ConfigError, match="at most 17 tokens, found 18"):
        tower(torch.zeros(1, 18, dtype=torch.int64))
