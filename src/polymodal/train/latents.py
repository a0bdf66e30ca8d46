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

    def drawn(self, sample: Sample, generator: torch.Generator) -> tuple[Tensor, str, Tensor]:
        """And what chooses among a picture's latents [C, h, w], as the codec says how surely."""
        pixels, text = self.item(sample)
        return pixels, text, noise_for(self.codec(pixels), pixels[None], generator)[0]

    def batch(self, items: Sequence[tuple[Tensor, str, Tensor]], generator: torch.Generator) -> MicroBatch:
        """The words' tensors, and `latents`."""
        pixels, texts, noise = (list(each) for each in zip(*items, strict=True))
        latents = encoded(self.codec, torch.stack(pixels), torch.stack(noise))
        return counted({**self.encode(texts), "latents": latents}, len(items))


def picture_pixels(picture: Image, side: int) -> Tensor:
    """Its shorter side and a crop from the centre, [3, side, side] in -1 .. 1."""
    return ShorterSideCrop(size=side, crop=side, mean=HALF, std=HALF)(picture)


def latents_of(codec_for: Callable[[Tensor], Any], pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels [N, 3, H, W] -> latents [N, C, h, w], drawn as the codec says how surely."""
    return encoded(codec_for, pixels, noise_for(codec_for(pixels), pixels, generator))


def noise_for(codec: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """What chooses among the latents of pixels [N, 3, H, W]: [N, C, h, w]."""
    stack = codec.config.stack
    grid = [side // stack.factor for side in pixels.shape[2:]]
    return torch.randn((len(pixels), stack.latent, *grid), generator=generator)


@torch.no_grad()
def encoded(codec_for: Callable[[Tensor], Any], pixels: Tensor, noise: Tensor) -> Tensor:
    """Pixels [N, 3, H, W] and noise -> latents [N, C, h, w]."""
    found: Tensor = codec_for(pixels).encode(pixels, noise)
    return found
