"""EfficientNet-Lite against the independent efficientnet-lite-pytorch, all weights and statistics random."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from polymodal.encoders.efficientnet import (
    LITE0,
    LITE0_SOURCE,
    LITE1,
    LITE2,
    LITE3,
    LITE4,
    PUBLISHED_KEYS,
    EfficientNetConfig,
    InvertedBottleneckConfig,
    fold_batch_norms,
    same_padding,
)
from polymodal.errors import ConfigError
from polymodal.weights.fetch import fetch, is_cached
from polymodal.weights.read import read

TOLERANCE = 1e-4  # float32, absolute, on logits of order one
LITES = (LITE0, LITE1, LITE2, LITE3, LITE4)
PARAMETERS = (4652008, 5416680, 6092072, 8197096, 13006568)


def small() -> EfficientNetConfig:
    blocks = (
        InvertedBottleneckConfig(in_width=8, out_width=8, kernel=3, expand=1),
        InvertedBottleneckConfig(in_width=8, out_width=12, kernel=5, stride=2),
        InvertedBottleneckConfig(in_width=12, out_width=12, kernel=3),
    )
    return EfficientNetConfig(blocks=blocks, stem_width=8, width=16, classes=5, image_size=30)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Random weights AND batch statistics, scaled so that the signal neither dies nor saturates."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif value.dim() > 1:
            value.copy_(noise * (2 / value[0].numel()) ** 0.5)
        elif value.dim() == 1 and name.endswith("weight"):
            value.copy_(1 + 0.2 * noise)
        elif value.dim() == 1:
            value.copy_(0.3 * noise)


@pytest.mark.parametrize("index", range(5))
def test_sizes_equal_the_published_ones(index: int) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    with torch.device("meta"):
        model, theirs = LITES[index].build(), reference.from_name(f"efficientnet-lite{index}")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[index]
    report = PUBLISHED_KEYS.check(theirs.state_dict(), model.state_dict())
    assert not (report.problems or report.dropped or report.new or report.one_way)
    dict(PUBLISHED_KEYS.apply(theirs.state_dict(), model))  # shapes too
    back = dict(PUBLISHED_KEYS.inverse().apply(model.state_dict()))
    assert {name: x.shape for name, x in back.items()} == {name: x.shape for name, x in theirs.state_dict().items()}


@pytest.mark.parametrize("index", [0, 2])  # Lite2 has an odd image side at two stages
def test_logits_equal_reference(index: int) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    config = LITES[index]
    theirs = reference.from_name(f"efficientnet-lite{index}").eval()
    randomise(theirs, seed=index)
    model = config.build().eval()
    model.load_state_dict(dict(PUBLISHED_KEYS.apply(theirs.state_dict(), model)))
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    with torch.no_grad():
        features = model(pixels)
        logits = model.classify(model.pool(features))
        expected_map, expected = theirs.extract_features(pixels), theirs(pixels)
    assert features.shape == (2, config.tokens, config.width)
    assert expected.std() > 0.1 and 0.05 < (expected_map > 0).float().mean() < 0.95
    torch.testing.assert_close(features, expected_map.flatten(2).transpose(1, 2), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.assets
def test_real_weights_see_what_the_reference_sees(examples: Path) -> None:
    if not is_cached(LITE0_SOURCE):
        pytest.skip("the published Lite0 weights are not in the cache")
    weights = read(fetch(LITE0_SOURCE, offline=True), LITE0_SOURCE.format)
    model = LITE0.build().eval()
    model.load_state_dict(dict(PUBLISHED_KEYS.apply(weights, model)))
    picture = Image.open(examples / "cat.jpg").convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    upright = (torch.from_numpy(np.array(picture)).float() - 127) / 128
    pixels = torch.stack((upright, upright.flip(1), upright.rot90())).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = model.classify(model.pool(model(pixels)))
        folded = fold_batch_norms(model)
        torch.testing.assert_close(folded.classify(folded.pool(folded(pixels))), logits, atol=TOLERANCE, rtol=0)
    cats = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian
    assert int(logits[0].argmax()) in cats
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(dict(weights))
    with torch.no_grad():
        torch.testing.assert_close(logits, theirs(pixels), atol=TOLERANCE, rtol=0)


def test_folding_keeps_the_output_and_the_model() -> None:
    model = small().build().eval()
    randomise(model, seed=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norms(model)
    pixels = torch.randn(2, 3, 30, 30)
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels), model(pixels), atol=TOLERANCE, rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_image_sizes_and_gradients() -> None:
    model = small().build()
    assert model(torch.randn(2, 3, 31, 17)).shape == (2, 8 * 5, 16)
    pixels = torch.randn(2, 3, 30, 30, requires_grad=True)
    features = model(pixels)
    assert features.shape[1] == small().tokens
    model.classify(model.pool(features)).square().sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_items_do_not_influence_each_other() -> None:
    model = small().build().eval()
    randomise(model, seed=4)
    pixels = torch.randn(3, 3, 30, 30)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels)[1:2], model(pixels[1:2]), atol=1e-5, rtol=0)


def test_mismatched_blocks_are_refused() -> None:
    block = InvertedBottleneckConfig(in_width=8, out_width=8, kernel=3)
    with pytest.raises(ConfigError, match="block 0: expected in_width 32, found 8"):
        EfficientNetConfig(blocks=(block,))


@given(side=st.integers(1, 400), kernel=st.sampled_from([1, 3, 5, 7]), stride=st.integers(1, 3))
def test_same_padding_gives_ceil_of_side_over_stride(side: int, kernel: int, stride: int) -> None:
    before, after = same_padding(side, kernel, stride)
    assert 0 <= before <= after <= before + 1
    assert (side + before + after - kernel) // stride + 1 == -(-side // stride)
