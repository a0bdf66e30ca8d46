"""The video codec against transformers' Emu3VQVAE and the official code, both ways, random weights and statistics."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import polymodal
from polymodal.check.randomise import fill, ids, state, values
from polymodal.errors import ConfigError
from polymodal.generators import vq_codec_3d

TINY = {
    "codebook_size": 48, "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1, 2],
    "num_res_blocks": 1, "attn_resolutions": [1], "hidden_size": 64,
}  # fmt: skip


def converted(settings):
    transformers = pytest.importorskip("transformers")
    from transformers.models.emu3.configuration_emu3 import Emu3VQVAEConfig

    theirs = transformers.Emu3VQVAE(Emu3VQVAEConfig(**settings)).eval()
    fill(theirs)
    ours = vq_codec_3d.parse_config(settings).build().eval()
    ours.load_state_dict(dict(vq_codec_3d.keys().apply(theirs.state_dict(), ours)))
    return theirs, ours


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_attention_heads": 4, "num_res_blocks": 2, "channel_multiplier": [2, 1, 2], "attn_resolutions": [0, 2]},
        {"temporal_downsample_factor": 2, "attn_resolutions": [], "out_channels": 1, "channel_multiplier": [2]},
        {"temporal_downsample_factor": 1, "embed_dim": 6, "latent_channels": 6},
    ],
)
@torch.no_grad()
def test_both_ways_equal_transformers(change):
    settings = {**TINY, **change}
    theirs, ours = converted(settings)
    factor, time = ours.config.stack.factor, ours.config.time
    sizes = torch.tensor([[16, 24], [16, 24]])
    pixels = values("pixels", (2, 3, 16, 24))
    found = ours.encode(pixels)
    assert torch.equal(found, torch.stack(theirs.encode(pixels, sizes).image_tokens))
    assert len(found.unique()) > 2
    frames = values("frames", (2, 2 * time, 3, 16, 24))
    expected = theirs.encode(frames, sizes)
    clip = ours.encode(frames)
    assert clip.shape == (2, 2, 16 // factor, 24 // factor)
    # transformers cuts a clip's time axis by the height of the grid; compare what it leaves.
    for row, one in zip(clip, expected.image_tokens, strict=True):
        assert torch.equal(row[: one.shape[0], : one.shape[1]], one)
    codes = ids("codes", (2, 3, 5), 0, 48)
    assert (ours.decode(codes) - theirs.decode(codes)).abs().max() < 1e-4
    clip_codes = ids("clip", (2, 3, 2, 3), 0, 48)
    assert (ours.decode(clip_codes) - theirs.decode(clip_codes)).abs().max() < 1e-4


def test_both_ways_equal_the_official_code():
    path = Path(polymodal.__file__).parent / "check" / "fixtures" / "emu3_vision_tokenizer.safetensors"
    with safe_open(path, "pt") as file:
        note = file.metadata()
        known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    codec = vq_codec_3d.parse_config(json.loads(note["config"])).build().eval()
    weights = state(json.loads(note["shapes"]))
    codec.load_state_dict(dict(vq_codec_3d.keys(official=True).apply(weights, codec)))
    with torch.no_grad():
        assert torch.equal(codec.encode(known["pixel_values"]), known["ids"])
        assert torch.equal(codec.encode(known["frames"]), known["clip_ids"])
        assert (codec.decode(known["codes"]) - known["pixels"]).abs().max() < 1e-4
        assert (codec.decode(known["clip_codes"]) - known["clip_pixels"]).abs().max() < 1e-4


def test_refusals():
    with pytest.raises(ConfigError, match="double_latent"):
        vq_codec_3d.parse_config({"double_latent": True})
    with pytest.raises(ConfigError, match="hidden_size"):
        vq_codec_3d.parse_config({**TINY, "hidden_size": 32})
