"""`classify` and `embed` of encoders that compare one picture with sentences: ALBEF, BLIP, FLAVA.

    picture -> transform -> pixel_values;  sentence -> [CLS] pieces [SEP] -> input_ids, attention_mask
    score: a match head judges every pair (ALBEF, BLIP), else contrastive logits (FLAVA) -> softmax over the sentences
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
from polymodal.data.media import Image, Text
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import PromptError
from polymodal.models.fusion_encoder import FusionEncoder

BLIP_PICTURES = {**VIT, "size": {"height": 384, "width": 384}, "resample": 3, "image_mean": CLIP_MEAN,
                 "image_std": CLIP_STD}  # fmt: skip
"""Defaults of BlipImageProcessor; ALBEF's test transform at its own size."""
FLAVA_PICTURES = {**CLIP, "size": {"height": 224, "width": 224}}
"""Defaults of FlavaImageProcessor."""
FLAVA_TOKENS = {**FLAVA_PICTURES, "size": {"height": 112, "width": 112}, "crop_size": {"height": 112, "width": 112},
                "resample": 1, "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}  # fmt: skip
"""The same for the pixels of image tokens, before `map_pixels`."""


def bert_ids(tokenizer: Tokenizer, limit: int) -> Callable[[str], list[int]]:
    """Sentence -> [CLS] pieces [SEP], at most `limit` ids."""
    first, last = tokenizer.special("[CLS]"), tokenizer.special("[SEP]")
    return lambda text: [first, *tokenizer.encode(text)[: limit - 2], last]


class PairScores:
    """`transform`: picture -> [3, H, W]; `ids`: sentence -> token ids; `limit`: longest text in tokens."""

    def __init__(self, model: nn.Module, transform: Callable[[Any], Tensor], ids: Callable[[str], list[int]]) -> None:
        self.model: Any = model
        self._transform = transform
        self._ids = ids

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` of sentences, padded on the right with 0."""
        rows = [self._ids(text) for text in texts]
        longest = max(map(len, rows))
        device = next(self.model.parameters()).device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        return {"input_ids": ids, "attention_mask": mask}

    def picture(self, picture: Any) -> Tensor:
        """`pixel_values [1, 3, H, W]`."""
        one = next(self.model.parameters())
        return self._transform(picture)[None].to(one.device, one.dtype)

    @torch.inference_mode()
    def score(self, picture: Any, sentences: Sequence[str]) -> Tensor:
        """Probabilities [len(sentences)] that sum to 1."""
        texts, pixels = self.texts(sentences), self.picture(picture)
        if isinstance(self.model, FusionEncoder):
            image = self.model.image(pixels).expand(len(sentences), -1, -1)
            logits = self.model.match(self.model.fuse(image, **texts)[:, 0])
            return (logits[:, 1] - logits[:, 0]).float().softmax(-1)
        return self.model(pixel_values=pixels, **texts).logits[0].float().softmax(-1)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Tensor:
        """Image, Text or str items -> float32 [N, E], rows of length 1; raises PromptError for other media."""
        rows = []
        for item in items:
            if isinstance(item, Image):
                found = self.model.features(pixel_values=self.picture(item))["image"][0]
            elif isinstance(item, Text | str):
                found = self.model.features(**self.texts([item if isinstance(item, str) else item.text]))["text"][0]
            else:
                raise PromptError(f"embed: this model embeds pictures and text; found {type(item).__name__}")
            rows.append(F.normalize((found[0] if found.dim() == 2 else found).float(), dim=-1))
        return torch.stack(rows)
