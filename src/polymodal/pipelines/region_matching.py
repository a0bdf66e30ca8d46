"""`classify` of models that read the regions of a picture: which of several sentences fits it best.

    regions, sentences -> every pair through the model -> match logits -> softmax over the sentences [N, S]

Traps: a match is the difference of two logits, and which of them says yes differs (ViLBERT's 0, LXMERT's and UNITER's
1); a head of one number is the score itself.  Every pair is a pass through the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.data.region_processor import RegionProcessor
from polymodal.nn.first_weight import first_weight


@dataclass(frozen=True, kw_only=True)
class RegionScores:
    """head: whose prediction counts, [B, 2] or [B, 1].  yes: which of the two says that they match."""

    model: nn.Module
    processor: RegionProcessor
    head: str = "match"
    yes: int = 1

    @torch.inference_mode()
    def score(self, items: Sequence[Any], sentences: Sequence[str]) -> Tensor:
        """Probabilities [N, len(sentences)]; rows sum to 1.  Raises PromptError for what holds no regions."""
        texts, regions = self.processor.texts(sentences), self.processor.regions(items)
        weight = first_weight(self.model)
        rows = []
        for row in range(len(items)):
            seen = {
                name: value[row : row + 1].expand(len(sentences), *value.shape[1:]) for name, value in regions.items()
            }
            batch = {name: value.to(weight.device) for name, value in (texts | seen).items()}
            batch = {name: x.to(weight.dtype) if x.is_floating_point() else x for name, x in batch.items()}
            logits = self.model(**batch).predictions[self.head].float()
            rows.append(logits[:, 0] if logits.shape[1] == 1 else logits[:, self.yes] - logits[:, 1 - self.yes])
        return torch.stack(rows).softmax(-1)
