"""`classify` and `embed` of encoders that compare one picture with sentences: ALBEF, BLIP, FLAVA.

    picture -> transform -> pixel_values;  sentence -> [CLS] pieces [SEP] -> input_ids, attention_mask
    score: a match head judges every pair (ALBEF, BLIP), else scaled cosines (FLAVA) -> softmax over the sentences
    embed: joint vectors of length 1

Traps: a match is the difference of the two logits (yes - no); FLAVA's features are of every token, the first counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.data.hf_image import CLIP, VIT
from polymodal.data.item_rules import SentenceIds
from polymodal.data.media import Image, Text
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import PromptError
from polymodal.models.fusion_encoder import FusionEncoder
from polymodal.nn.first_weight import first_weight
from polymodal.pipelines.batches import in_batches, stacked
from polymodal.pipelines.vector_cache import VectorCache

BLIP_PICTURES = {**VIT, "size": {"height": 384, "width": 384}, "resample": 3, "image_mean": CLIP_MEAN,
                 "image_std": CLIP_STD}  # fmt: skip
"""Defaults of BlipImageProcessor; ALBEF's test transform at its own size."""
FLAVA_PICTURES = {**CLIP, "size": {"height": 224, "width": 224}}
"""Defaults of FlavaImageProcessor."""
FLAVA_TOKENS = {**FLAVA_PICTURES, "size": {"height": 112, "width": 112}, "crop_size": {"height": 112, "width": 112},
                "resample": 1, "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}  # fmt: skip
"""The same for the pixels of image tokens, before `map_pixels`."""


def bert_ids(tokenizer: Tokenizer, limit: int) -> SentenceIds:
    """Sentence -> [CLS] pieces [SEP], at most `limit` ids."""
    return SentenceIds(tokenizer, tokenizer.special("[CLS]"), tokenizer.special("[SEP]"), limit)


class PairScores:
    """`transform`: picture -> [3, H, W]; `ids`: sentence -> token ids."""

    def __init__(self, model: nn.Module, transform: Callable[[Any], Tensor], ids: Callable[[str], list[int]]) -> None:
        self.model: Any = model
        self._transform = transform
        self._ids = ids
        self._vector_cache = VectorCache(model)

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` of sentences, padded on the right with 0."""
        rows = [self._ids(text) for text in texts]
        longest = max(map(len, rows))
        device = first_weight(self.model).device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        return {"input_ids": ids, "attention_mask": mask}

    def pictures(self, pictures: Sequence[Any]) -> Tensor:
        """`pixel_values [N, 3, H, W]`."""
        return stacked(map(self._transform, pictures), self.model)

    @torch.inference_mode()
    def score(self, pictures: Sequence[Any], sentences: Sequence[str]) -> Tensor:
        """Probabilities [N, len(sentences)]; rows sum to 1.  Raises PromptError for what is no picture."""
        if wrong := [type(item).__name__.lower() for item in pictures if not isinstance(item, Image)]:
            raise PromptError(f"classify: this model classifies pictures; found {wrong[0]}")
        if not isinstance(self.model, FusionEncoder):
            words = self._vector_cache.of(list(sentences), lambda new: self._vectors([Text(text) for text in new]))
            cosines = self._vectors(list(pictures)) @ words.T
            return (cosines * self.model.logit_scale.exp().float()).softmax(-1)
        texts, rows = self.texts(sentences), []
        # Pictures are encoded together; each then meets all sentences, which is a batch of its own.
        for image in self.model.image(self.pictures(pictures)):
            logits = self.model.match(self.model.fuse(image.expand(len(sentences), -1, -1), **texts)[:, 0])
            rows.append((logits[:, 1] - logits[:, 0]).float().softmax(-1))
        return torch.stack(rows)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Tensor:
        """Image, Text or str items -> float32 [N, E], rows of length 1; raises PromptError for other media."""
        return in_batches(items, self._vectors)

    def _vectors(self, items: list[Any]) -> Tensor:
        """Items of one kind -> float32 [N, E], rows of length 1."""
        if isinstance(items[0], Image):
            found = self.model.features(pixel_values=self.pictures(items))["image"]
        elif isinstance(items[0], Text):
            found = self.model.features(**self.texts([item.text for item in items]))["text"]
        else:
            raise PromptError(f"this model embeds pictures and text; found {type(items[0]).__name__.lower()}")
        return F.normalize((found[:, 0] if found.dim() == 3 else found).float(), dim=-1)
