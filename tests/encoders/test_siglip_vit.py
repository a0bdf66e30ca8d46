"""SigLIP's image encoder against transformers, every layer and joined layers; all parameters random."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from polymodal.check.randomise import fill, values
from polymodal.encoders import clip_vit, siglip_vit
from polymodal.encoders.vit import ViT, ViTConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable

SIZES: dict[str, Any] = {
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 23,
    "patch_size": 5,
}


def loaded(config: ViTConfig, table: KeyTable, theirs: Any) -> ViT:
    model = config.build().eval()
    source = {f"vision_model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    model.load_state_dict(dict(table.apply(source, model)))
    return model


@pytest.mark.parametrize("options", [{}, {"vision_use_head": False, "num_channels": 1, "hidden_act": "gelu"}])
def test_equals_transformers(options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    given = transformers.SiglipVisionConfig(**SIZES, **options)
    theirs = transformers.SiglipVisionModel(given).eval()
    fill(theirs)
    config = siglip_vit.parse_config(given.to_dict())
    pixels = values("pixels", (2, given.num_channels, 23, 23))
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        full = loaded(config, siglip_vit.hf_keys(config), theirs)(pixels)
        joined = replace(config, layer=(-2, 0, 3), final_norm=None, skip=1)
        found = loaded(joined, siglip_vit.hf_keys(joined), theirs)(pixels)
    wanted = torch.cat([expected.hidden_states[i] for i in (-2, 0, 3)], -1)[:, 1:]
    torch.testing.assert_close(full, expected.last_hidden_state, atol=1e-4, rtol=0)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert found.shape[1:] == (joined.tokens, joined.out_width)


def test_layers_of_clip_are_joined() -> None:
    transformers = pytest.importorskip("transformers")
    given = transformers.CLIPVisionConfig(**SIZES)
    theirs = transformers.CLIPVisionModel(given).eval()
    fill(theirs)
    config = replace(clip_vit.parse_config(given.to_dict()), layer=(1, -2, -1), keep_class=False, head=None)
    pixels = values("pixels", (2, 3, 23, 23))
    with torch.no_grad():
        states = theirs(pixels, output_hidden_states=True).hidden_states
        found = loaded(config, clip_vit.hf_keys(config), theirs)(pixels)
    wanted = torch.cat([states[i] for i in (1, -2, -1)], -1)[:, 1:]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_defaults_are_those_of_the_library() -> None:
    transformers = pytest.importorskip("transformers")
    assert siglip_vit.parse_config({}) == siglip_vit.parse_config(transformers.SiglipVisionConfig().to_dict())
    with pytest.raises(ConfigError, match="layer 5 does not exist"):
        replace(siglip_vit.parse_config(SIZES), layer=(1, 5))
