"""Connectors of Video-LLaMA and MiniGPT-4 with LLaMA-2: shapes and refusals (numbers: the systems' fixtures)."""

import pytest
import torch

from polymodal.connectors.neighbours import NeighboursConfig
from polymodal.connectors.qformer import QFormerConfig
from polymodal.connectors.timed_qformer import TimedQFormerConfig
from polymodal.encoders.frames import FrameEncoder
from polymodal.errors import ConfigError, PromptError

FRAME = QFormerConfig(width=24, depth=2, heads=2, ffn_width=30, source_width=16, queries=3)
OVER_TIME = QFormerConfig(width=24, depth=1, heads=2, ffn_width=30, source_width=24, queries=2, cross_every=1)


def test_time() -> None:
    video = TimedQFormerConfig(over_time=OVER_TIME, out_width=10, longest=4, frame=FRAME).build()
    assert video(torch.randn(2, 4, 5, 16)).shape == (2, 2, 10)
    shuffled = torch.randn(1, 3, 5, 16)
    assert not torch.allclose(video(shuffled), video(shuffled.flip(1)))  # the order of frames matters
    with pytest.raises(PromptError, match="at most 4"):
        video(torch.randn(1, 5, 5, 16))
    with pytest.raises(ConfigError, match="24"):
        TimedQFormerConfig(over_time=OVER_TIME, out_width=10, longest=4, frame=QFormerConfig(width=32, heads=2))


def test_items_of_unequal_length() -> None:
    video = TimedQFormerConfig(over_time=OVER_TIME, out_width=10, longest=4, frame=FRAME).build().eval()
    frames = torch.randn(5, 5, 16)
    expected = torch.cat((video(frames[None, :2]), video(frames[None, 2:])))
    assert torch.equal(video(frames, frame_counts=(2, 3)), expected)
    with pytest.raises(PromptError, match=r"items of \[2, 2\] frames do not make the 5 frames"):
        video(frames, frame_counts=(2, 2))


def test_neighbours() -> None:
    connector = NeighboursConfig(width=6, out_width=5, count=4).build()
    features = torch.randn(2, 8, 6)
    expected = connector.proj(torch.cat([features[:, i::4] for i in range(4)], -1))
    assert torch.allclose(connector(features), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="a multiple of 4 features, found 7"):
        connector(torch.randn(1, 7, 6))


def test_frames() -> None:
    inner = torch.nn.Flatten(2)
    assert FrameEncoder(inner)(torch.randn(2, 3, 3, 4, 4)).shape == (2, 3, 3, 16)
    assert FrameEncoder(inner, accept_images=True)(torch.randn(2, 3, 4, 4)).shape == (2, 1, 3, 16)
    with pytest.raises(ConfigError, match="frames"):
        FrameEncoder(inner)(torch.randn(2, 3, 4, 4))
