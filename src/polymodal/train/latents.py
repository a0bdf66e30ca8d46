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
        return picture_pixels(media, self.side), text

    def batch(self, items: Sequence[tuple[Tensor, str]], generator: torch.Generator) -> MicroBatch:
        """The words' tensors, and `latents`; which of a picture's latents is drawn, as the codec says how surely."""
        latents = latents_of(self.codec, torch.stack([each for each, _ in items]), generator)
        return counted({**self.encode([text for _, text in items]), "latents": latents}, len(items))


def picture_pixels(picture: Image, side: int) -> Tensor:
    """Its shorter side and a crop from the centre, [3, side, side] in -1 .. 1."""
    return ShorterSideCrop(size=side, crop=side, mean=HALF, std=HALF)(picture)


@torch.no_grad()
def latents_of(codec_for: Callable[[Tensor], Any], pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels [N, 3, H, W] -> latents [N, C, h, w], drawn as the codec says how surely."""
    codec = codec_for(pixels)
    stack = codec.config.stack
    grid = [side // stack.factor for side in pixels.shape[2:]]
    noise = torch.randn((len(pixels), stack.latent, *grid), generator=generator)
    found: Tensor = codec.encode(pixels, noise)
    return found
