"""ConvNeXt against transformers; timm's names and SPHINX's trunk are in the system's fixtures."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from polymodal.check import randomise
from polymodal.encoders.convnext import ConvNeXt, ConvNeXtConfig, timm_keys
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable, rename

SMALL = ConvNeXtConfig(image_size=64, depths=(2, 1, 3), widths=(8, 12, 20), eps=1e-6)


def library_keys():
    """The hub's names, but those of the last norm, which the library applies to the pooled vector."""
    block, ours = "encoder.stages.{}.layers.{}", "stages.{}.blocks.{}"
    names = {"embeddings.patch_embeddings": "stem", "embeddings.layernorm": "stem_norm", "layernorm": "norm",
             "encoder.stages.{}.downsampling_layer.0": "stages.{}.down_norm",
             "encoder.stages.{}.downsampling_layer.1": "stages.{}.down", f"{block}.dwconv": f"{ours}.conv",
             f"{block}.layernorm": f"{ours}.norm", f"{block}.pwconv1": f"{ours}.mlp.up_proj",
             f"{block}.pwconv2": f"{ours}.mlp.down_proj"}  # fmt: skip
    rows = [rename(f"{block}.layer_scale_parameter", f"{ours}.scale")]
    rows += [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in names.items() for leaf in ("weight", "bias")]
    return KeyTable(tuple(rows))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_equal_to_the_library(size):
    config = transformers.ConvNextConfig(depths=[2, 1, 3], hidden_sizes=[8, 12, 20], num_stages=3, layer_norm_eps=1e-6)
    oracle = transformers.ConvNextModel(config).eval()
    randomise.fill(oracle)
    model = SMALL.build().eval()
    model.load_state_dict(dict(library_keys().apply(oracle.state_dict(), model)))
    pixels = randomise.values("pixels", (2, 3, *size))
    want = oracle(pixel_values=pixels).last_hidden_state.permute(0, 2, 3, 1).flatten(1, 2)
    want = F.layer_norm(want, want.shape[-1:], oracle.layernorm.weight, oracle.layernorm.bias, 1e-6)
    assert (model(pixels) - want).abs().max() <= 1e-5


def test_sizes_and_names():
    assert (ConvNeXtConfig().grid, ConvNeXtConfig().tokens, ConvNeXtConfig().width) == (8, 64, 3072)
    with torch.device("meta"):
        largest = ConvNeXtConfig().build()
    assert isinstance(largest, ConvNeXt)
    assert sum(each.numel() for each in largest.parameters()) == 843_398_016
    names = timm_keys().inverse().apply(largest.state_dict())
    assert {"stem.1.bias", "stages.3.downsample.0.weight", "stages.2.blocks.29.gamma", "head.norm.weight"} <= dict(
        names
    ).keys()


def test_what_is_refused_is_named():
    with pytest.raises(ConfigError, match="must have the same length"):
        ConvNeXtConfig(depths=(1, 2), widths=(8,))
    with pytest.raises(ConfigError, match="multiple of 32, found 100"):
        ConvNeXtConfig(image_size=100)
    with pytest.raises(ConfigError, match=r"multiples of 16, found \[1, 3, 60, 64\]"):
        SMALL.build()(torch.zeros(1, 3, 60, 64))
