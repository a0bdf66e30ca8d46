"""What names the patches of a picture: a visual tokenizer of BEiT v2, or the codebook of FLAVA and BEiT.

PictureCodec(module)(picture, grid) -> ids [P] of the patches

Trap: each sees the picture at a size and in colours of its own: the codebook 8 x 8 pixels a patch, the tokenizer all of
its own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.data.datasets.sample import Sample
from polymodal.data.hf_image import PublishedTransform
from polymodal.data.media import Image
from polymodal.errors import ConfigError, PromptError
from polymodal.generators.dalle_codec import DalleCodec, map_pixels
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.models.visual_tokenizer import VisualTokenizer
from polymodal.train.collator import WrongKind

PIXELS = 8  # of the codebook, along a side of a patch
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class PictureCodec:
    """See the module docstring."""

    module: nn.Module

    def __post_init__(self) -> None:
        if not isinstance(self.module, VisualTokenizer) and codebook_of(self.module) is None:
            raise ConfigError(
                f"--codec: expected a visual tokenizer of BEiT v2 or a FlavaImageCodebook, found a "
                f"{type(self.module).__name__}"
            )

    @torch.no_grad()
    def __call__(self, picture: Image, grid: tuple[int, int]) -> Tensor:
        """int64 [P].  Raises ConfigError for a tokenizer of another grid."""
        if isinstance(self.module, VisualTokenizer):
            encoder = self.module.config.encoder
            if encoder.grid != grid:
                found = " x ".join(map(str, encoder.grid))
                raise ConfigError(f"--codec names {found} patches, the model has {grid[0]} x {grid[1]}")
            seen = PublishedTransform(size=encoder.image_size, mean=HALF, std=HALF)(picture)
            return self.module.image_tokens(seen[None]).flatten()
        codebook = codebook_of(self.module)
        assert codebook is not None
        logits: Tensor = codebook(map_pixels(codebook_transform(grid)(picture)[None]))
        return logits.argmax(1).flatten()


def codebook_of(module: nn.Module) -> DalleCodec | None:
    """A codebook by itself, or as its folder is loaded: an encoder whose features are its logits."""
    inner = module.encoders["image"] if isinstance(module, EncoderClassifier) else module
    return inner if isinstance(inner, DalleCodec) else None


def codebook_transform(grid: tuple[int, int]) -> PublishedTransform:
    """Picture -> what the codebook sees of it, before its colours are mapped."""
    return PublishedTransform(size=(PIXELS * grid[0], PIXELS * grid[1]), interpolation="lanczos")


def codes_of(
    sample: Sample, picture: Image, grid: tuple[int, int], codec: PictureCodec | None, count: int | None = None
) -> Tensor:
    """Ids of the patches, of the data or computed.  count: of the codes that the model knows; None: not looked at.

    Raises WrongKind where neither is there, PromptError for ids that do not fit the model.
    """
    if (given := sample.arrays.get("codes")) is not None:
        codes = torch.as_tensor(given.values).flatten().long()
    elif codec is not None:
        codes = codec(picture, grid)
    else:
        raise WrongKind("has no codes; give --codec, a visual tokenizer of BEiT v2 or a FlavaImageCodebook")
    if len(codes) != grid[0] * grid[1]:
        raise PromptError(f"has {len(codes)} codes; expected one for each of {grid[0]} x {grid[1]} patches")
    if count is not None and not 0 <= int(codes.min()) <= int(codes.max()) < count:
        raise PromptError(f"codes are 0 to {count - 1} for this model, found {int(codes.min())} to {int(codes.max())}")
    return codes
