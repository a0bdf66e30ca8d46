"""The image codec against transformers' ChameleonVQVAE (encoder) and the official code (both ways), random weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import polymodal
from polymodal.check.randomise import fill, state, values
from polymodal.errors import ConfigError
from polymodal.generators import vq_codec

TINY = {
    "embed_dim": 24, "num_embeddings": 64, "latent_channels": 40, "resolution": 32, "base_channels": 32,
    "channel_multiplier": [1, 2, 3], "num_res_blocks": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"attn_resolutions": [16, 8], "num_res_blocks": 2},
        {"attn_type": None, "channel_multiplier": [1]},
        {"in_channels": 1, "channel_multiplier": [2, 1]},
    ],
)
def test_ids_equal_transformers(change):
    transformers = pytest.importorskip("transformers")
    from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

    del transformers
    settings = {**TINY, **change}
    if settings.get("attn_type", "vanilla") is None:
        settings["attn_type"] = "None"  # the class insists on a string
    theirs = ChameleonVQVAE(ChameleonVQVAEConfig(**settings)).eval()
    fill(theirs)
    config = vq_codec.parse_config(settings)
    ours = config.build().eval()
    table = vq_codec.keys(config)
    ours.load_state_dict(dict(table.apply(theirs.state_dict(), ours)))
    pixels = values("pixels", (3, config.stack.pixels, 48, 32))
    with torch.no_grad():
        expected = theirs.encode(pixels)
        assert (ours.encoder(pixels) - expected.last_hidden_state).abs().max() < 1e-4
        ids = ours.encode(pixels)
    assert ids.shape == (3, 48 // config.stack.factor, 32 // config.stack.factor)
    assert torch.equal(ids.flatten(), expected.image_tokens)
    assert len(ids.unique()) > 8


def test_way_back_to_pixels_has_the_size_of_the_way_in():
    config = vq_codec.parse_config(TINY, decode=True)
    codec = config.build().eval()
    fill(codec)
    with torch.no_grad():
        assert codec.decode(codec.encode(values("p", (2, 3, 32, 16)))).shape == (2, 3, 32, 16)


def test_refusals():
    with pytest.raises(ConfigError, match="double_latent"):
        vq_codec.parse_config({"double_latent": True})
    with pytest.raises(ConfigError, match="attn_type"):
        vq_codec.parse_config({"attn_type": "linear"})
    with pytest.raises(ConfigError, match="multiple of 32"):
        vq_codec.parse_config({**TINY, "base_channels": 40}).build()
    with pytest.raises(ConfigError, match="no decoder"):
        vq_codec.parse_config(TINY).build().decode(torch.zeros(1, 2, 2, dtype=torch.int64))


def test_both_ways_equal_the_official_code():
    path = Path(polymodal.__file__).parent / "check" / "fixtures" / "chameleon_vqgan.safetensors"
    with safe_open(path, "pt") as file:
        note = file.metadata()
        known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = vq_codec.parse_config(json.loads(note["config"]), decode=True)
    codec = config.build().eval()
    codec.load_state_dict(dict(vq_codec.keys(config).apply(state(json.loads(note["shapes"])), codec)))
    with torch.no_grad():
        assert torch.equal(codec.encode(known["pixel_values"]), known["ids"])
        assert (codec.decode(known["codes"]) - known["pixels"]).abs().max() < 1e-4
