"""SPHINX's views: which pixels each of them is, and encoders that do not fit each other."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from polymodal.check import randomise
from polymodal.check.evidence.sphinx import small
from polymodal.encoders.mixed_views import by_imagenet
from polymodal.errors import ConfigError
from polymodal.systems.sphinx.checkpoint import views_of


@torch.no_grad()
def test_quarters_are_views_like_pictures():
    five, one = (views_of(small(40, kind)) for kind in ("llama_ens5", "llama_ens"))
    torch.manual_seed(0)
    model, single = five.build().eval(), one.build().eval()
    randomise.fill(model)
    single.load_state_dict(model.state_dict())
    pixels = randomise.values("pixels", (2, 3, 56, 56))
    asked, mixed = model(pixels)
    assert asked.shape == (2, 5, 5, 48) and mixed.shape == (2, 5, 5, 64 + 48 + 48)
    quarters = (pixels[..., :28, :28], pixels[..., :28, 28:], pixels[..., 28:, :28], pixels[..., 28:, 28:])
    small_whole = F.interpolate(pixels.half(), size=(28, 28), mode="bicubic").float()
    for view, seen in enumerate((small_whole, *quarters)):
        for found, wanted in zip((asked, mixed), single(seen), strict=True):
            assert (found[:, view] - wanted[:, 0]).abs().max() <= 1e-5
    conv = mixed[..., 64:112]
    assert torch.allclose(conv[..., 0, :], conv[..., 1:, :].mean(-2), atol=1e-6)


def test_statistics_are_changed():
    grey = torch.zeros(1, 3, 2, 2)  # CLIP's mean
    assert by_imagenet(grey)[0, :, 0, 0].tolist() == pytest.approx(
        [(0.48145466 - 0.485) / 0.229, (0.4578275 - 0.456) / 0.224, (0.40821073 - 0.406) / 0.225], abs=1e-6
    )


def test_what_does_not_fit_is_named():
    config = views_of(small(40))
    with pytest.raises(ConfigError, match="a ConvNeXt with a grid of 1; found 28, 14 and 2"):
        replace(config, convnext=replace(config.convnext, image_size=64))
    with pytest.raises(ConfigError, match=r"expected \[N, 3, 56, 56\], found \[1, 3, 28, 28\]"):
        config.build()(torch.zeros(1, 3, 28, 28))
