"""DINOv2 against transformers, and its own way of resizing positions."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from polymodal.check import library, randomise
from polymodal.encoders.dinov2 import VIT_G_14, dinov2, official_keys


def official(state):
    """The hub's names -> the official ones."""
    found = {}
    words = {
        "patch_embeddings.projection": "patch_embed.proj", "embeddings.": "", "encoder.layer.": "blocks.",
        "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma", "layernorm": "norm",
        "attention.output.dense": "attn.proj", "position_embeddings": "pos_embed", "mlp.weights_in": "mlp.w12",
        "mlp.weights_out": "mlp.w3",
    }  # fmt: skip
    for name, value in state.items():
        for theirs, ours in words.items():
            name = name.replace(theirs, ours)
        found[name] = value
    for name in [name for name in found if ".attention.attention.query." in name]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return found


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_equal_to_the_library(gated):
    config = transformers.Dinov2Config(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=42,
                                       patch_size=14, use_swiglu_ffn=gated)  # fmt: skip
    oracle = transformers.Dinov2Model(config).eval()
    randomise.fill(oracle)
    model = dinov2(width=24, depth=3, heads=3, image_size=42, gated=gated).build().eval()
    model.load_state_dict(dict(official_keys(gated).apply(official(library.names_on_disk(oracle)), model)))
    pixels = randomise.values("pixels", (2, 3, 42, 42))
    assert (model(pixels) - oracle(pixel_values=pixels).last_hidden_state).abs().max() <= 1e-5


@torch.no_grad()
def test_positions_are_resized_by_a_factor_a_tenth_of_a_patch_too_large():
    model = dinov2(width=8, depth=1, heads=2, image_size=70).build()
    randomise.fill(model)
    planes = model.positions[1:].T.reshape(1, 8, 5, 5)
    for height, width in ((4, 4), (3, 7)):
        wanted = F.interpolate(planes, scale_factor=((height + 0.1) / 5, (width + 0.1) / 5), mode="bicubic")
        found = model.positions_for(height, width)
        assert (found[1:] - wanted[0].flatten(1).T).abs().max() <= 1e-6
        assert torch.equal(found[0], model.positions[0])
        plain = F.interpolate(planes, size=(height, width), mode="bicubic")
        assert (found[1:] - plain[0].flatten(1).T).abs().max() > 1e-3
    assert model.positions_for(5, 5) is model.positions


def test_the_giant_has_its_published_size():
    with torch.device("meta"):
        giant = VIT_G_14.build()
    assert sum(each.numel() for each in giant.parameters()) == 1_136_480_768
