"""Vectors of items of every sense and of sentences by an assembly of many encoders (ImageBind)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data import imagebind_inputs
from polymodal.data.media import Media, Text
from polymodal.errors import PromptError
from polymodal.pipelines.batches import in_batches, stacked


@dataclass(frozen=True, kw_only=True)
class JointTensors:
    """A medium or a text -> the name of its tensor, its values.  ids: sentence -> token ids with begin and end; the
    rest up to `length` is filled with 0.  Raises PromptError for media the model does not take."""

    ids: Callable[[str], Sequence[int]]
    length: int = 77

    def __call__(self, item: Any) -> tuple[str, Tensor]:
        if isinstance(item, Text | str):
            row = list(self.ids(item if isinstance(item, str) else item.text))
            return "text", torch.tensor(row + [0] * (self.length - len(row)))
        if isinstance(item, Media) and item.modality in imagebind_inputs.INPUTS:
            name, made = imagebind_inputs.INPUTS[item.modality]
            return name, made(item)
        found = item.modality if isinstance(item, Media) else type(item).__name__
        raise PromptError(
            f"embed: this model embeds text, {', '.join(imagebind_inputs.INPUTS)}; found {found or 'an array'}"
        )


def embedder(model: Any, ids: Callable[[str], Sequence[int]], length: int = 77) -> Callable[[Sequence[Any]], Tensor]:
    """A function of media items -> float32 [N, E], rows of length 1.

    model: `features(vision=, text=, audio=, ...)`; ids, length: see JointTensors.  The function raises PromptError for
    media the model does not take.
    """
    tensors = JointTensors(ids=ids, length=length)

    @torch.inference_mode()
    def embed(items: Sequence[Any]) -> Tensor:
        return F.normalize(in_batches(items, vectors), dim=-1)

    def vectors(items: list[Any]) -> Tensor:
        names, rows = zip(*map(tensors, items), strict=True)
        return model.features(**{names[0]: stacked(rows, model)})[names[0]].float()

    return embed
