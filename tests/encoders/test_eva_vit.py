"""EVA ViT-g of BLIP-2 against transformers, all weights random."""

from typing import Any

import pytest
import torch

from polymodal.check import randomise
from polymodal.encoders import eva_vit
from polymodal.errors import ConfigError
from polymodal.weights.load import load_into

transformers = pytest.importorskip("transformers")

SIZES = [
    {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "image_size": 28},
    {"hidden_size": 33, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 50, "image_size": 30,
     "patch_size": 7, "qkv_bias": False, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_against_transformers(sizes: dict[str, Any]) -> None:
    oracle = transformers.Blip2VisionModel(transformers.Blip2VisionConfig(**sizes)).eval()
    randomise.fill(oracle)
    config = eva_vit.parse_config(oracle.config.to_dict())
    module = config.build().eval()
    load_into(module, oracle.state_dict(), eva_vit.HF_KEYS)
    side = sizes["image_size"]
    pixels = randomise.values("pixels", (2, 3, side, side))
    expected = oracle(pixel_values=pixels).last_hidden_state
    assert (module(pixels) - expected).abs().max() <= 1e-5
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in oracle.parameters())
    larger = randomise.values("larger", (1, 3, side + 14, side + 28))
    expected = oracle(pixel_values=larger, interpolate_pos_encoding=True).last_hidden_state
    assert (module(larger, interpolate_pos_encoding=True) - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_official_names() -> None:
    config = transformers.Blip2VisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=30, image_size=28,
    )  # fmt: skip
    ours = eva_vit.parse_config(config.to_dict(), official=True).build()
    randomise.fill(ours)
    official = dict(
        eva_vit.OFFICIAL_KEYS.inverse().apply({k: v for k, v in ours.state_dict().items() if "final" not in k})
    )
    assert official["blocks.1.attn.qkv.weight"].shape == (72, 24) and official["blocks.0.attn.q_bias"].shape == (24,)
    assert official["cls_token"].shape == (1, 1, 24) and official["pos_embed"].shape == (1, 5, 24)
    # transformers' conversion of the same file: a bias of zeros for the keys
    theirs = dict(official)
    for i in range(2):
        q, v = (theirs.pop(f"blocks.{i}.attn.{name}_bias") for name in "qv")
        theirs[f"blocks.{i}.attn.qkv.bias"] = torch.cat((q, torch.zeros_like(q), v))
    oracle = transformers.Blip2VisionModel(config).eval()
    oracle.post_layernorm.eps = 1e-5
    names = {
        "cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding",
        "patch_embed.proj": "embeddings.patch_embedding", "blocks": "encoder.layers", "norm1": "layer_norm1",
        "norm2": "layer_norm2", "attn.proj": "self_attn.projection", "attn.": "self_attn.",
    }  # fmt: skip
    state = {}
    for name, tensor in theirs.items():
        for old, new in names.items():
            name = name.replace(old, new) if "self_attn" not in name else name
        state[name] = tensor
    state |= {f"post_layernorm.{leaf}": ours.state_dict()[f"final_norm.{leaf}"] for leaf in ("weight", "bias")}
    oracle.load_state_dict(state)
    pixels = randomise.values("pixels", (2, 3, 28, 28))
    assert (ours(pixels) - oracle(pixel_values=pixels).last_hidden_state).abs().max() <= 1e-5


def test_published_size() -> None:
    with torch.device("meta"):
        official = eva_vit.parse_config({}, official=True).build()
        hub = eva_vit.parse_config({}).build()
    assert sum(p.numel() for p in official.parameters()) == 985_894_528 + 2 * 1408
    assert sum(p.numel() for p in hub.parameters()) == 985_952_256


def test_two_sides_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_size"):
        eva_vit.parse_config({"image_size": [224, 224]})
