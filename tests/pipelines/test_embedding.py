"""Items of every sense reach the encoder of their modality, by the official name of its tensor."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polymodal.data.media import Array, Image, Text
from polymodal.errors import PromptError
from polymodal.pipelines.embedding import embedder


class Recorder(nn.Module):
    """Gives [N, 2] for any one tensor and remembers its name and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def features(self, **batch: Tensor) -> Mapping[str, Tensor]:
        ((name, values),) = batch.items()
        self.seen.append((name, tuple(values.shape)))
        return {name: torch.tensor([[3.0, 4.0]])}


def test_each_modality_goes_to_its_own_encoder() -> None:
    model = Recorder()
    embed = embedder(model, lambda text: [1, *map(ord, text), 2])
    pixels = np.zeros((30, 40, 3), np.uint8)
    items = [Image(pixels), Image(pixels, modality="depth"), Image(pixels, modality="thermal"),
             Array(np.zeros((6, 100)), modality="imu"), Text("hi")]  # fmt: skip
    vectors = embed(items)
    assert torch.equal(vectors, torch.tensor([[0.6, 0.8]] * 5))
    assert model.seen == [
        ("vision", (1, 3, 224, 224)), ("depth", (1, 1, 224, 224)), ("thermal", (1, 1, 224, 224)),
        ("imu", (1, 6, 2000)), ("text", (1, 77)),
    ]  # fmt: skip
    with pytest.raises(PromptError, match="embeds text, image, video, audio, depth, thermal, imu; found point_cloud"):
        embed([Array([[1.0]], modality="point_cloud")])
    with pytest.raises(PromptError, match="found an array"):
        embed([Array([[1.0]])])
