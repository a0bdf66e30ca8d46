"""Vectors of pictures, videos, sounds and sentences by an assembly of many encoders (ImageBind)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data import sense
from polymodal.data.media import Audio, Image, Text, Video
from polymodal.errors import PromptError
from polymodal.pipelines.batches import in_batches


def embedder(model: Any, ids: Callable[[str], Sequence[int]], length: int = 77) -> Callable[[Sequence[Any]], Tensor]:
    """A function of media items -> float32 [N, E], rows of length 1.

    model: `features(vision=, text=, audio=)`; ids: sentence -> token ids with begin and end; the rest up to `length`
    is filled with 0.  The function raises PromptError for media the model does not take.
    """

    @torch.inference_mode()
    def embed(items: Sequence[Any]) -> Tensor:
        return F.normalize(in_batches(items, vectors), dim=-1)

    def vectors(items: list[Any]) -> Tensor:
        one = next(model.parameters())
        names, rows = zip(*map(tensors, items), strict=True)
        values = torch.stack(rows).to(one.device, one.dtype if rows[0].is_floating_point() else None)
        return model.features(**{names[0]: values})[names[0]].float()

    def tensors(item: Any) -> tuple[str, Tensor]:
        if isinstance(item, Image):
            return "vision", sense.picture(item)
        if isinstance(item, Video):
            return "vision", sense.video(item)
        if isinstance(item, Audio):
            return "audio", sense.sound(item)
        if isinstance(item, Text):
            row = list(ids(item.text))
            return "text", torch.tensor(row + [0] * (length - len(row)))
        raise PromptError(f"embed: this model embeds pictures, video, sound and text; found {type(item).__name__}")

    return embed
