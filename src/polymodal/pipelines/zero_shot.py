"""Classes and search by words with a dual encoder (CLIP, arXiv 2103.00020): labels become sentences, sentences vectors.

    picture -> transform -> encoders.image.joint -> unit length [E] --+
    label -> templates -> tokenizer -> encoders.text.joint -> mean ----+-> dot product * exp(logit_scale) -> softmax

Traps: every sentence's vector is normed before the mean and the mean after it; sentences longer than the encoder's
positions are cut in front of the end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media import Image, Text
from polymodal.data.prompts import IMAGENET
from polymodal.errors import ConfigError, PromptError
from polymodal.models.dual_encoder import DualEncoder, class_vectors, unit


class ZeroShot:
    """`transform`: picture -> pixel_values [3, H, W]; `ids`: sentence -> token ids, begin and end tokens included."""

    def __init__(
        self,
        model: DualEncoder,
        transform: Callable[[Any], Tensor],
        ids: Callable[[str], Sequence[int]],
        templates: Sequence[str] = IMAGENET,
    ) -> None:
        if not templates or any("{}" not in template for template in templates):
            raise ConfigError("zero-shot: every template needs a {} for the label")
        self.model = model
        self.templates = tuple(templates)
        self._transform = transform
        self._ids = ids

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Any]) -> Tensor:
        """Pictures -> [N, E], rows of length 1."""
        one = next(self.model.parameters())
        values = torch.stack([self._transform(picture) for picture in pictures]).to(one.device, one.dtype)
        return unit(self.model.features(pixel_values=values)["image"].float())

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Sentences -> [N, E], rows of length 1."""
        rows = [list(self._ids(text)) for text in texts]
        longest = max(map(len, rows))
        device = next(self.model.parameters()).device
        # The end token repeated: causal attention and pooling at its first place make padding invisible.
        ids = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows], device=device)
        return unit(self.model.features(input_ids=ids)["text"].float())

    def embed(self, items: Sequence[Any]) -> Tensor:
        """Image, Text or str items -> float32 [N, E], rows of length 1; raises PromptError for other media."""
        found = []
        for item in items:
            if isinstance(item, Image):
                found.append(self.pictures([item])[0])
            elif isinstance(item, Text | str):
                found.append(self.texts([item if isinstance(item, str) else item.text])[0])
            else:
                raise PromptError(f"embed: this model embeds pictures and text; found {type(item).__name__.lower()}")
        return torch.stack(found)

    def classes(self, labels: Sequence[str]) -> Tensor:
        """Labels -> [classes, E]: the mean over all templates, rows of length 1."""
        return class_vectors([self.texts([each.format(label) for each in self.templates]) for label in labels])

    @torch.inference_mode()
    def score(self, item: Any, labels: Sequence[str]) -> Tensor:
        """Probabilities [classes] that the picture shows each label; they sum to 1.  Raises PromptError."""
        if not isinstance(item, Image):
            raise PromptError(f"classify: this model classifies pictures; found {type(item).__name__.lower()}")
        return self.model.similarity(self.pictures([item]), self.classes(labels))[0].softmax(0)


def search(queries: Tensor, gallery: Tensor, count: int) -> Tensor:
    """Retrieval: [Q, E] and [G, E] of unit length -> indices [Q, count] into the gallery, nearest first."""
    return (queries @ gallery.T).topk(min(count, gallery.shape[0]), dim=-1).indices
