"""The global token only reads: what the ViT gives for each frame stays, and the token sees all of them."""

from dataclasses import replace

import pytest
import torch

from polymodal.check import randomise
from polymodal.encoders import eva_vit
from polymodal.encoders.global_frames import GlobalFramesConfig
from polymodal.errors import ConfigError

FRAME = eva_vit.parse_config(
    {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 36, "image_size": 21,
     "patch_size": 7}, official=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    module = GlobalFramesConfig(frame=FRAME, layers=2).build().eval()
    randomise.fill(module)
    return module


@torch.no_grad()
def test_frames_stay_what_they_are(encoder):
    frames = randomise.values("frames", (2, 3, 3, 21, 21))
    found = encoder(frames)
    alone = replace(FRAME, final_norm=None).build().eval()
    alone.load_state_dict(encoder.frame.state_dict())
    wanted = encoder.final_norm(alone(frames.flatten(0, 1))).reshape(2, 30, 24)
    assert found.shape == (2, 31, 24)
    assert torch.allclose(found[:, :-1], wanted, atol=1e-6)
    turned = encoder(frames.flip(1))
    assert (turned[:, -1] - found[:, -1]).abs().max() > 1e-3  # the convolution over time knows the order


@torch.no_grad()
def test_a_picture_is_one_frame(encoder):
    picture = randomise.values("picture", (2, 3, 21, 21))
    assert torch.equal(encoder(picture), encoder(picture[:, None]))
    with pytest.raises(ConfigError, match="expected frames"):
        encoder(picture[0])


def test_blocks_are_counted():
    with pytest.raises(ConfigError, match="expected 1 to 3, one a block, found 4"):
        GlobalFramesConfig(frame=FRAME, layers=4)
