"""EVA-02's own traps; its sums are compared with the official code in CogAgent's evidence."""

import math

import pytest
import torch

from polymodal.check import randomise
from polymodal.encoders import eva02_vit
from polymodal.errors import ConfigError

SMALL = {"hidden_size": 24, "head_width": 8, "patch_size": 3, "image_size": 12, "layers": 2, "final_embed_dim": 5}


def tower():
    module = eva02_vit.parse_config(SMALL).build()
    randomise.fill(module)
    return module


@torch.no_grad()
def test_rotation_is_that_of_the_grid_of_pretraining():
    cos, _ = tower().blocks[0].attn.rotation(torch.device("cpu"), torch.float32)
    assert cos.shape == (1, 1, 17, 8) and (cos[0, 0, 0] == 1).all(), "the class token is not turned"
    row, column = 2, 3  # of a grid of 4 x 4, which stands for one of 16 x 16
    angles = [place / 4 * 16 / 10000**power for place in (row, column) for power in (0, 0, 0.5, 0.5)]
    found = cos[0, 0, 1 + 4 * row + column].tolist()
    assert found == pytest.approx([math.cos(angle) for angle in angles], abs=1e-5)


@torch.no_grad()
def test_the_last_block_and_the_head_are_built_and_left_out():
    module, pixels = tower(), randomise.values("pixels", (2, 3, 12, 12))
    before = module(pixels)
    assert before.shape == (2, 16, 24)
    for part in (module.blocks[1], module.final_norm, module.head):
        for parameter in part.parameters():
            parameter.zero_()
    assert torch.equal(module(pixels), before)
    module.blocks[0].mlp.down_proj.norm.weight.zero_()
    assert not torch.equal(module(pixels), before)


@pytest.mark.parametrize(("name", "value"), [("intp_freq", False), ("postnorm", True), ("use_rel_pos_bias", True)])
def test_other_forms_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        eva02_vit.parse_config({**SMALL, name: value})


def test_heads_that_have_no_two_halves_of_pairs_are_refused():
    with pytest.raises(ConfigError, match="multiple of 4"):
        eva02_vit.parse_config({**SMALL, "head_width": 6})
