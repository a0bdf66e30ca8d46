"""Pictures with captions -> latents of a codec with the words that ask for them, for models that learn to see noise.

picture -> its shorter side and a crop from the centre at the model's size -> codec -> latents [C, h, w], scaled
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Image
from polymodal.data.transforms import ShorterSideCrop
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted
from polymodal.train.pairs import captioned

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class LatentCollator(Collator):
    """encode(texts) -> their batch.  codec(a tensor on its device) -> what encodes pixels in -1..1.  side: pixels."""

    expects: ClassVar[str] = "pictures with a caption each"

    encode: Callable[[Sequence[str]], Mapping[str, Any]]
    codec: Callable[[Tensor], Any]
    side: int

    def item(self, sample: Sample) -> tuple[Tensor, str]:
        """Pixels and words."""
        media, text = captioned(sample)
        if not isinstance(media, Image):
            raise WrongKind(f"has {media.modality} where a picture is expected")
        return ShorterSideCrop(size=self.side, crop=self.side, mean=HALF, std=HALF)(media), text

    def batch(self, items: Sequence[tuple[Tensor, str]], generator: torch.Generator) -> MicroBatch:
        """The words' tensors, and `latents`; which of a picture's latents is drawn, as the codec says how surely."""
        pixels = torch.stack([each for each, _ in items])
        codec = self.codec(pixels)
        with torch.no_grad():
            stack = codec.config.stack
            grid = (self.side // stack.factor,) * 2
            latents = codec.encode(pixels, torch.randn((len(items), stack.latent, *grid), generator=generator))
        return counted({**self.encode([text for _, text in items]), "latents": latents}, len(items))
