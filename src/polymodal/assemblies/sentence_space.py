"""Pictures and sentences as unit vectors of one space, for retrieval and for classification by label words.

    pixel_values -> encoder -> NamesConnector.embed -> [N, E]
    input_ids    -> TextEncoder.sentence -> projection -> [N, E]          similarity = dot product

The picture side is shared with the language model's connector; the text side is a sentence encoder that is read only
when a sentence has to be embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.data.media import Image, Text
from polymodal.errors import ConfigError, PromptError

Sentences = Callable[[Sequence[str]], Tensor]
"""Texts -> unit vectors [N, E] of the sentence encoder."""


class SentenceSpace(nn.Module):
    """See the module's text.  transform: picture record -> pixel_values [3, H, W]."""

    def __init__(
        self,
        encoder: nn.Module,
        connector: Any,
        projection: nn.Linear,
        transform: Callable[[Any], Tensor],
        sentences: Sentences,
    ):
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.projection = projection
        self._transform = transform
        self._sentences = sentences

    def pictures(self, pictures: Sequence[Any]) -> Tensor:
        """Decoded pictures -> unit vectors [N, E]."""
        values = torch.stack([self._transform(picture) for picture in pictures])
        return self.connector.embed(self.encoder(values))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Sentences or words -> unit vectors [N, E]."""
        return F.normalize(self.projection(self._sentences(texts)), dim=-1)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Tensor:
        """Image, Text or str items -> float32 [N, E], unit rows; raises PromptError for other media."""
        rows = []
        for item in items:
            if isinstance(item, Image):
                rows.append(self.pictures([item])[0])
            elif isinstance(item, Text | str):
                rows.append(self.texts([item if isinstance(item, str) else item.text])[0])
            else:
                raise PromptError(f"embed: this model embeds pictures and text; found {type(item).__name__.lower()}")
        if not rows:
            raise ConfigError("embed: expected at least one item, found none")
        return torch.stack(rows).float()

    @torch.inference_mode()
    def score(self, item: Any, labels: Sequence[str]) -> Tensor:
        """Probabilities [len(labels)] that the picture shows each label; they sum to 1."""
        if not labels:
            raise ConfigError("classify: expected at least one label, found none")
        similarity = self.texts(labels) @ self.embed([item])[0]
        return (similarity * self.connector.log_scale.exp()).softmax(0)
