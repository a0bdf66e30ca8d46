"""ViT-Adapter: with gamma at zero the encoder beside it is untouched; its maps, and a map's own picture."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from polymodal.check import randomise
from polymodal.encoders.clip_vit import clip_vit
from polymodal.encoders.vit_adapter import ChannelNorm, ConvFeedForward, ViTAdapterConfig, as_map, flattened, middles

VIT = replace(clip_vit(width=32, depth=4, patch_size=7, image_size=28, heads=4), head=None)


@pytest.fixture
def adapter():
    made = ViTAdapterConfig(vit=VIT, heads=4, inner=4).build()
    randomise.fill(made)
    return made


def test_without_gamma_the_tokens_are_the_encoders(adapter) -> None:
    pixels = randomise.values("pixels", (2, 3, 28, 28))
    with torch.no_grad():
        injected = adapter(pixels)
        for injector in adapter.injectors:
            injector.gamma.zero_()
        found = adapter(pixels)
        plain = adapter.vit(pixels)
    assert (found.tokens - plain).abs().max() < 1e-5 < (injected.tokens - plain).abs().max()
    assert [tuple(each.shape) for each in found.maps] == [(2, 32, side, side) for side in (16, 8, 4, 2)]
    assert adapter.config.sides == (16, 8, 4, 2)


def test_a_picture_has_the_same_maps_alone(adapter) -> None:
    pixels = randomise.values("pixels", (2, 3, 28, 28))
    with torch.no_grad():
        both, alone = adapter(pixels), adapter(pixels[1:])
    for one, other in zip(both.maps, alone.maps, strict=True):
        assert (one[1:] - other).abs().max() < 1e-5


def test_the_feed_forward_mixes_within_each_map() -> None:
    layer = ConvFeedForward(6, 4)
    randomise.fill(layer)
    maps = [torch.randn(1, 6, side, side) for side in (4, 2, 1)]
    found = layer(torch.cat([flattened(each) for each in maps], 1), (4, 2, 1)).split([16, 4, 1], 1)
    for each, own in zip(maps, found, strict=True):
        inner = F.linear(flattened(each), layer.up_proj.weight, layer.up_proj.bias)
        mixed = F.conv2d(as_map(inner, each.shape[-1]), layer.conv.weight, layer.conv.bias, padding=1, groups=4)
        wanted = F.linear(F.gelu(flattened(mixed)), layer.down_proj.weight, layer.down_proj.bias)
        assert (own - wanted).abs().max() < 1e-6


def test_channels_are_normed_and_places_are_middles() -> None:
    norm, x = ChannelNorm(5), torch.randn(2, 5, 3, 3)
    randomise.fill(norm)
    wanted = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    wanted = wanted * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert (norm(x) - wanted).abs().max() < 1e-5
    assert middles(2, "cpu").tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
