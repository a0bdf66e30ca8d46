"""A model that reads features and writes pictures as ids of its own vocabulary.

    pictures, sound -> encoders -> connectors -> spliced among the words -> backbone                        (reads)
    hidden -> one head over words and codes -> ids of a picture -> generators.image.decode -> pixels       (writes)

Gemini (arXiv 2312.11805) is described so: it reads as Flamingo, CoCa and PaLI do, and writes discrete picture tokens.
Trap: a picture that was written earlier in a conversation stands in it as its ids, not as features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.fusion.vocabulary import Spelling
from polymodal.models.multimodal_lm import MultimodalLM


class PictureWritingLM(MultimodalLM):
    """codec: pixels <-> codes, frozen; spelling: codes <-> ids of the vocabulary."""

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        placeholders: Mapping[str, int],
        *,
        codec: nn.Module,
        spelling: Spelling,
    ) -> None:
        super().__init__(encoders, connectors, backbone, placeholders)
        self.generators = nn.ModuleDict({"image": codec.requires_grad_(False)})
        self.spelling = spelling

    def train(self, mode: bool = True) -> PictureWritingLM:
        """The codec does not learn: its statistics stay as they are."""
        super().train(mode)
        self.generators.eval()
        return self

    @torch.no_grad()
    def picture_codes(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] -> codes int64 [N, h, w]."""
        codec: Any = self.generators["image"]
        return codec.encode(pixels)

    @torch.no_grad()
    def pixels(self, ids: Tensor, height: int, width: int) -> Tensor:
        """Ids [N, h * w] of whole pictures -> pixels [N, 3, H, W] in about [-1, 1].

        Raises PromptError if the ids are not a grid of this size.
        """
        codec: Any = self.generators["image"]
        return codec.decode(self.spelling.codes(ids, height, width))
