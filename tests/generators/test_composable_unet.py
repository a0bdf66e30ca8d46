"""CoDi's U-Nets: what is the same of a picture and a video, environment vectors, what is refused.

Their numbers are compared with the official code by `polymodal check codi`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from polymodal.check import randomise
from polymodal.errors import ConfigError
from polymodal.generators.composable_layers import GridLayers, VectorLayers
from polymodal.generators.composable_unet import ComposableUNetConfig

CONFIG = ComposableUNetConfig(
    layers=GridLayers(frames=True), latent=4, width=64, multipliers=(1, 1), blocks=(1, 1), attends=(True, False),
    joins=(True, False), environment=(1,), environment_blocks=(1,), context=8, environment_width=16, heads=4,
)  # fmt: skip
TIMES, CONTEXT = torch.tensor([5, 900]), randomise.values("context", (2, 1, 8))


def built(config: ComposableUNetConfig):
    model = config.build()
    randomise.fill(model)
    return model


def test_a_picture_leaves_out_what_mixes_frames() -> None:
    model, plain = built(CONFIG), replace(CONFIG, layers=GridLayers()).build()
    plain.load_state_dict({name: x for name, x in model.state_dict().items() if ".film." not in name})
    x = randomise.values("x", (2, 4, 4, 6))
    with torch.no_grad():
        assert torch.equal(model(x, TIMES, CONTEXT), plain(x, TIMES, CONTEXT))
        film = model(x[:, :, None].expand(-1, -1, 3, -1, -1), TIMES, CONTEXT)
    assert film.shape == (2, 4, 3, 4, 6) and not torch.allclose(film[:, :, 0], film[:, :, 2])


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 4, 2, 4, 4), (2, 4)])
def test_environments_have_length_1_and_matter(shape) -> None:
    layers = VectorLayers(2) if len(shape) == 2 else GridLayers(frames=True)
    model, x = built(replace(CONFIG, layers=layers)), randomise.values("x", shape)
    with torch.no_grad():
        vectors = model.surroundings(x, TIMES, CONTEXT)
        alone, joint = (model(x, TIMES, CONTEXT, joint) for joint in (False, True))
    assert vectors.shape == (2, 16) and torch.allclose(vectors.norm(dim=-1), torch.ones(2))
    assert alone.shape == joint.shape == shape and not torch.allclose(alone, joint)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": 48}, "multiple of 32"),
        ({"heads": 5}, "of 5 heads"),
        ({"blocks": (1,)}, "one number of blocks for each level"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, told) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(CONFIG, **change)


UNFIT = (((2, 3, 4, 4), "expected latents"), ((2, 4), "expected latents"), ((2, 4, 4, 5), "multiples of 2"),
         ((2, 4, 31, 2, 2), "at most 30 frames"))  # fmt: skip


@pytest.mark.parametrize(("shape", "told"), UNFIT)
def test_latents_that_do_not_fit_are_refused(shape, told) -> None:
    with pytest.raises(ConfigError, match=told):
        built(CONFIG)(torch.zeros(shape), TIMES, CONTEXT)
