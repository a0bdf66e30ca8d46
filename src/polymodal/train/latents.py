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
from polymodal.train.row_draws import RowDraws, seed_from

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class LatentCollator(Collator):
    """encode(texts) -> their batch.  codec(a tensor on its device) -> what encodes pixels in -1..1.  side: pixels.
    times: of the schedule of noise."""

    expects: ClassVar[str] = "pictures with a caption each"

    encode: Callable[[Sequence[str]], Mapping[str, Any]]
    codec: Callable[[Tensor], Any]
    side: int
    times: int

    def item(self, sample: Sample) -> tuple[Tensor, str]:
        """Pixels and words."""
        media, text = captioned(sample)
        if not isinstance(media, Image):
            raise WrongKind(f"has {media.modality} where a picture is expected")
        return picture_pixels(media, self.side), text

    def drawn(self, sample: Sample, generator: torch.Generator) -> tuple[Tensor, str, int]:
        """And the seed of its random numbers."""
        return *self.item(sample), seed_from(generator)

    def batch(self, items: Sequence[tuple[Tensor, str, int]], generator: torch.Generator) -> MicroBatch:
        """The words' tensors, `latents`, and the `noise` at `timesteps` that is to be seen in them."""
        pixels, texts, seeds = (list(each) for each in zip(*items, strict=True))
        draws = RowDraws(seeds)
        found = noised(latents_of(self.codec, torch.stack(pixels), draws), draws, self.times)
        return counted({**self.encode(texts), **found}, len(items))


def picture_pixels(picture: Image, side: int) -> Tensor:
    """Its shorter side and a crop from the centre, [3, side, side] in -1 .. 1."""
    return ShorterSideCrop(size=side, crop=side, mean=HALF, std=HALF)(picture)


@torch.no_grad()
def latents_of(codec_for: Callable[[Tensor], Any], pixels: Tensor, draws: RowDraws) -> Tensor:
    """Pixels [N, 3, H, W] -> latents [N, C, h, w], drawn as the codec says how surely."""
    codec = codec_for(pixels)
    stack = codec.config.stack
    grid = [side // stack.factor for side in pixels.shape[2:]]
    found: Tensor = codec.encode(pixels, draws.normal(stack.latent, *grid))
    return found


def noised(latents: Tensor, draws: RowDraws, times: int) -> dict[str, Tensor]:
    """Latents, and what is drawn for them: `noise` and `timesteps` [N]."""
    return {"latents": latents, "noise": draws.normal(*latents.shape[1:]), "timesteps": draws.whole(times)}
