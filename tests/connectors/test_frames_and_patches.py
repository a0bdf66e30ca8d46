"""Video-ChatGPT's pooling against its formula, and what it refuses."""

import pytest
import torch

from polymodal.connectors.frames_and_patches import FramesAndPatchesConfig
from polymodal.errors import ConfigError, PromptError


def test_pools_over_patches_and_over_frames() -> None:
    connector = FramesAndPatchesConfig(frames=4).build(6, 8)
    features = torch.randn(5, 3, 6)
    found = connector(features, (2, 3))
    assert found.shape == (2, FramesAndPatchesConfig(frames=4).tokens(3), 8)
    for video, own in zip(found, (features[:2], features[2:]), strict=True):
        rows = [*own.mean(1), *[torch.zeros(6)] * (4 - len(own)), *own.mean(0)]
        torch.testing.assert_close(video, connector.project(torch.stack(rows)))
    torch.testing.assert_close(connector(features[:2]), found[:1])


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((5,), "a video of 5 frames; this model takes 4 at most"),
        ((2, 2), r"videos of \[2, 2\] frames do not make the 5 frames"),
        ((5, 0), r"videos of \[5, 0\] frames"),
    ],
)
def test_frames_that_do_not_fit_are_refused(counts: tuple[int, ...], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        FramesAndPatchesConfig(frames=4).build(6, 8)(torch.randn(5, 3, 6), counts)
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        FramesAndPatchesConfig(frames=0)
