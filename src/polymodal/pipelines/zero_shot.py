"""Classes and search by words with a dual encoder (CLIP, arXiv 2103.00020): labels become sentences, sentences vectors.

    picture -> transform -> encoders.image.joint -> unit length [E] --+
    label -> templates -> tokenizer -> encoders.text.joint -> mean ----+-> dot product * exp(logit_scale) -> softmax

A class's vector is made once and kept (`VectorCache`), until the weights change.
Traps: every sentence's vector is normed before the mean and the mean after it; sentences longer than the encoder's
positions are cut in front of the end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media import Image, Text
from polymodal.data.zero_shot_prompts import IMAGENET
from polymodal.errors import ConfigError, PromptError
from polymodal.models.dual_encoder import DualEncoder, class_vectors, l2_normalise
from polymodal.nn.first_weight import first_weight
from polymodal.pipelines.batches import in_batches, stacked
from polymodal.pipelines.vector_cache import VectorCache

SENTENCES = 64  # that go through the text encoder at once; more make a CPU slower


class ZeroShot:
    """`transform`: picture -> pixel_values [3, H, W]; `ids`: sentence -> token ids, begin and end tokens included.

    pad: fills shorter sentences, for a model that tells padding by its id; None: the end token repeated.
    """

    def __init__(
        self,
        model: DualEncoder,
        transform: Callable[[Any], Tensor],
        ids: Callable[[str], Sequence[int]],
        templates: Sequence[str] = IMAGENET,
        pad: int | None = None,
    ) -> None:
        if not templates or any("{}" not in template for template in templates):
            raise ConfigError("zero-shot: every template needs a {} for the label")
        self.model = model
        self.templates = tuple(templates)
        self._transform = transform
        self._ids = ids
        self._pad = pad
        self._vector_cache = VectorCache(model)

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Any]) -> Tensor:
        """Pictures -> [N, E], rows of length 1."""
        values = stacked(map(self._transform, pictures), self.model)
        return l2_normalise(self.model.features(pixel_values=values)["image"].float())

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Sentences -> [N, E], rows of length 1."""
        rows = [list(self._ids(text)) for text in texts]
        longest = max(map(len, rows))
        device = first_weight(self.model).device
        # The end token repeated: causal attention and pooling at its first position make padding invisible.
        filled = [row + [row[-1] if self._pad is None else self._pad] * (longest - len(row)) for row in rows]
        ids = torch.tensor(filled, device=device)
        return l2_normalise(self.model.features(input_ids=ids)["text"].float())

    def embed(self, items: Sequence[Any]) -> Tensor:
        """Image, Text or str items -> float32 [N, E], rows of length 1; raises PromptError for other media."""
        return in_batches(items, self._vectors)

    def _vectors(self, items: list[Any]) -> Tensor:
        """Items of one kind -> [N, E], rows of length 1."""
        if isinstance(items[0], Image):
            return self.pictures(items)
        if isinstance(items[0], Text):
            return self.texts([item.text for item in items])
        raise PromptError(f"this model embeds pictures and text; found {type(items[0]).__name__.lower()}")

    def classes(self, labels: Sequence[str]) -> Tensor:
        """Labels -> [classes, E]: the mean over all templates, rows of length 1."""
        return self._vector_cache.of([(label, self.templates) for label in labels], self._means)

    def _means(self, classes: list[tuple[str, tuple[str, ...]]]) -> Tensor:
        """(label, templates), the same templates for all -> [classes, E]."""
        templates = classes[0][1]
        sentences = [template.format(label) for label, _ in classes for template in templates]
        pieces = [self.texts(sentences[first : first + SENTENCES]) for first in range(0, len(sentences), SENTENCES)]
        return class_vectors(torch.cat(pieces).split(len(templates)))

    @torch.inference_mode()
    def score(self, items: Sequence[Any], labels: Sequence[str]) -> Tensor:
        """Probabilities [N, classes] that pictures show each label; rows sum to 1.  Raises PromptError."""
        if wrong := [type(item).__name__.lower() for item in items if not isinstance(item, Image)]:
            raise PromptError(f"classify: this model classifies pictures; found {wrong[0]}")
        return self.model.similarity(self.pictures(items), self.classes(labels)).softmax(-1)


def search(queries: Tensor, gallery: Tensor, count: int) -> Tensor:
    """Retrieval: [Q, E] and [G, E] of unit length -> indices [Q, count] into the gallery, nearest first."""
    return (queries @ gallery.T).topk(min(count, gallery.shape[0]), dim=-1).indices
