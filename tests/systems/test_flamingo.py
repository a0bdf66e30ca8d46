"""Flamingo: the sizes of the paper's tables, its prompt, pictures and videos as items."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import polymodal as pm
from polymodal.check.evidence.flamingo import small
from polymodal.check.randomise import fill, values
from polymodal.data.messages import conversation
from polymodal.data.template import written
from polymodal.errors import ConfigError
from polymodal.systems.flamingo import SYSTEM as FLAMINGO
from polymodal.systems.flamingo import checkpoint as flamingo

PAPER = {"3b": (24, 1.2e9), "9b": (10, 1.6e9), "80b": (12, 10e9)}  # gated blocks and their parameters, rounded there


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", list(PAPER))
def test_gated_blocks_are_as_many_and_about_as_large_as_in_the_paper(name: str) -> None:
    config = FLAMINGO.variant(name).config
    assert config is not None
    found = flamingo.parts_of(config)
    blocks, size = PAPER[name]
    assert len(found.gated) == blocks
    with torch.device("meta"):
        model = found.build()
    gated = sum(count(model.backbone.blocks[i].cross) for i in found.gated)  # type: ignore[union-attr]
    assert 0.8 < gated / size < 1.2
    assert abs(count(model.encoders) / 435e6 - 1) < 0.02


def test_prompt_is_the_papers() -> None:
    picture = pm.image(np.zeros((8, 8, 3), dtype=np.uint8))
    shots: list[dict[str, Any]] = [
        {"role": "user", "content": [picture, "What is it?"]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [picture]},
    ]
    segments = flamingo.SHOTS.render(conversation(shots), ask=True)
    assert written(segments) == "<BOS><image>Question: What is it? Answer: a cat<EOC><image>Output:"
    assert [
        segment.text for segment in segments if getattr(segment, "loss_mask", False) and hasattr(segment, "text")
    ] == [" a cat"]


@torch.no_grad()
def test_a_picture_is_a_video_of_one_frame_and_frames_are_in_order() -> None:
    model = flamingo.parse_config(small()).build().eval()
    fill(model)
    ids = torch.tensor([[1, 2, 5, 6]])
    picture = values("picture", (1, 3, 64, 64))
    alone = model(input_ids=ids, vision_x=picture).logits
    torch.testing.assert_close(model(input_ids=ids, vision_x=picture[None, :, None]).logits, alone)
    video = values("video", (1, 1, 3, 3, 64, 64))
    assert not torch.allclose(
        model(input_ids=ids, vision_x=video).logits, model(input_ids=ids, vision_x=video.flip(2)).logits
    )
    with pytest.raises(ConfigError, match="at most 3 frames, found 4"):
        model(input_ids=ids, vision_x=values("long", (1, 1, 4, 3, 64, 64)))


def test_a_placeholder_that_is_no_id_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the placeholder of image must be a token's id, found list \[2\]"):
        flamingo.parse_config({**small(), "media_token_id": [2]}).build()
