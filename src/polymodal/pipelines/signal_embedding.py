"""Vectors of pictures and of texts by a language model that finds pictures (GILL): both in one joint space.

picture -> encoder -> retrieval.image [N, E]      text, then the signal of a picture -> its first state ->
retrieval.text [N, E]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Processor
from polymodal.errors import PromptError
from polymodal.models.signal_token_lm import SignalTokenLM


@dataclass(frozen=True)
class SignalEmbedder:
    """Called with items of media: float32 [N, E], rows of length 1."""

    model: SignalTokenLM
    processor: Processor

    def __call__(self, items: Sequence[Any]) -> Tensor:
        """Raises PromptError for other media than pictures and texts."""
        return torch.cat([self._one(item) for item in items]).float()

    @torch.inference_mode()
    def _one(self, item: Any) -> Tensor:
        heads = self.model.retrieval
        assert heads is not None
        device = heads.image.weight.device
        if isinstance(item, Text | str):
            text = item if isinstance(item, Text) else Text(item)
            row = self.processor.encode((Message(role="user", parts=(text,)),), generate=True)
            ids = torch.tensor([[*row.input_ids, *self.model.signals["image"]]], device=device)
            states = self.model.states_at(self.model(input_ids=ids, return_logits=False).hidden, ids, "image")
            assert states is not None
            return heads.texts(states[-1:])
        if isinstance(item, Media) and item.modality == "image":
            pixels = self.processor.modalities["image"].transform(item)
            pooled = self.model.encoders["image"](pixels[None].to(device=device, dtype=heads.image.weight.dtype))
            return heads.pictures(pooled)
        raise PromptError(f"embed: this model embeds text and image; found {getattr(item, 'modality', type(item))}")
