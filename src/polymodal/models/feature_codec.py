"""A codec of features: pictures, classes or feature maps to ids and back (the VQ-VAE tokenizers of 4M).

    pixel_values [N, C, H, W], or classes [N, H, W] -> reader -> 1 x 1 convolution -> codebook -> ids [N, h, w]
    ids -> codes -> 1 x 1 convolution -> writer -> [N, C, H, W], of classes logits [N, classes, H, W]
    ids -> codes -> steps of diffusion          -> [N, C, H, W], drawn (generators/patch_diffusion.py)

Papers: 4M (arXiv 2312.06647), ViT-VQGAN (2110.04627), DiVAE (2206.00386).  A file may hold the reading half alone.
Traps: classes are embedded before they are read, and written as logits; a codebook by heads gives ids [N, heads, h, w].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.feature_codec import PlaceMLPConfig, TokenViTConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.generators.feature_codebook import MemoryCodebookConfig, UnitCodebookConfig
from polymodal.generators.patch_diffusion import PatchDiffusion, PatchDiffusionConfig
from polymodal.models.output import Output

Half = TokenViTConfig | PlaceMLPConfig
Distance = Literal["mse", "l1", "smooth_l1", "cosine", "classes", "binary"]

PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FeatureCodecConfig:
    """writer: None where ids are only read.  classes: how many, where classes are read.  width: of the codes.
    distance: of what is written to what was read, in training; of a writer that diffuses, to what it is to see."""

    reader: Half
    writer: Half | PatchDiffusionConfig | None
    codebook: UnitCodebookConfig | MemoryCodebookConfig
    classes: int | None = None
    distance: Distance = "mse"

    def build(self) -> FeatureCodec:
        return FeatureCodec(self)


def _built(half: Half, writes: bool) -> tuple[nn.Module, int]:
    """A half and the width of its inner end."""
    if isinstance(half, TokenViTConfig):
        return half.build(writes), half.width
    return half.build(), half.source if writes else half.target


class FeatureCodec(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"hidden", "features", "predictions"})

    def __init__(self, config: FeatureCodecConfig):
        super().__init__()
        self.config = config
        width = config.codebook.width
        self.reader, inner = _built(config.reader, False)
        channels = config.reader.channels if isinstance(config.reader, TokenViTConfig) else config.reader.source
        self.class_embedding = None if config.classes is None else nn.Embedding(config.classes, channels)
        self.to_code = nn.Conv2d(inner, width, 1)
        self.codebook = config.codebook.build()
        self.writer: nn.Module | None = None
        self.from_code: nn.Module | None = None
        if isinstance(config.writer, PatchDiffusionConfig):
            self.writer = config.writer.build()
        elif config.writer is not None:
            self.writer, outer = _built(config.writer, True)
            self.from_code = nn.Conv2d(width, outer, 1)

    @property
    def diffusion(self) -> PatchDiffusion | None:
        """The writing half, where it draws by diffusion."""
        return self.writer if isinstance(self.writer, PatchDiffusion) else None

    def vectors(self, pixel_values: Tensor) -> Tensor:
        """Vectors [N, D, h, w] before a code is chosen.  Raises PromptError for classes that are not there."""
        if self.class_embedding is not None:
            most = self.class_embedding.num_embeddings
            if pixel_values.is_floating_point() or pixel_values.dim() != 3:
                found = f"{list(pixel_values.shape)} {pixel_values.dtype}"
                raise PromptError(f"codec: expected classes [N, H, W] as whole numbers, found {found}")
            if not pixel_values.is_meta and int(pixel_values.max()) >= most:
                raise PromptError(f"codec: classes lie in 0 .. {most - 1}, found {int(pixel_values.max())}")
            pixel_values = self.class_embedding(pixel_values).movedim(-1, 1)
        return self.to_code(self.reader(pixel_values))

    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Ids [N, h, w], or [N, heads, h, w]."""
        return self.codebook.nearest(self.vectors(pixel_values))

    def write(self, ids: Tensor, *, seed: int = 0, steps: int | None = None) -> Tensor:
        """Ids [N, h, w] -> what they stand for [N, C, H, W].

        seed, steps: of a writing half that draws by diffusion; others write at once.  Raises ConfigError for a file
        without a writing half and for steps that are not there, PromptError for ids that are not there.
        """
        heads, size = self.config.codebook.heads, self.config.codebook.size
        if ids.dim() != (3 if heads == 1 else 4) or (heads > 1 and ids.shape[1] != heads):
            expected = "[N, h, w]" if heads == 1 else f"[N, {heads}, h, w]"
            raise PromptError(f"codec: expected ids {expected}, found {list(ids.shape)}")
        if not ids.is_meta and (int(ids.min()) < 0 or int(ids.max()) >= size):
            raise PromptError(f"codec: ids lie in 0 .. {size - 1}, found {int(ids.min())} .. {int(ids.max())}")
        codes = self.codebook(ids)
        return self._written(codes) if (drawn := self.diffusion) is None else drawn.draw(codes, seed=seed, steps=steps)

    def _written(self, codes: Tensor) -> Tensor:
        if self.writer is None or self.from_code is None:
            raise ConfigError("codec: this file holds the reading half alone; ids cannot be written with it")
        return self.writer(self.from_code(codes))

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Vectors of places, before a code is chosen."""
        return {"image": self.vectors(batch["pixel_values"])}

    def forward(
        self,
        *,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        return_loss: bool = False,
    ) -> Output:
        """predictions: "tokens" int64, and "pictures" [N, C, H, W] where there is a writing half.  hidden: vectors.

        noise [N, C, H, W], timesteps int64 [N]: of a writing half that diffuses, whose "pictures" are what it sees in
        the noised ones.  return_loss: distance of what is written to what was read or is to be seen, and of vectors to
        their codes.
        """
        vectors = self.vectors(pixel_values)
        codes, tokens, commitment = self.codebook.straight(vectors)
        found, wanted = {"tokens": tokens}, pixel_values
        if (drawn := self.diffusion) is None:
            if self.writer is not None:
                found["pictures"] = self._written(codes)
        elif noise is not None and timesteps is not None:
            noised = drawn.config.sampler.schedule.noisy(pixel_values, noise, timesteps)
            found["pictures"] = drawn(noised, timesteps, codes)
            wanted = drawn.target(pixel_values, noise, timesteps)
        losses = None
        if return_loss:
            if "pictures" not in found:
                raise ConfigError("codec: the reading half alone cannot be trained to write, and a half that diffuses "
                                  "learns from noise and timesteps")  # fmt: skip
            losses = {"writing": self._distance(found["pictures"], wanted), "commitment": commitment}
        loss = None if losses is None else torch.stack(list(losses.values())).sum()
        return Output(hidden=vectors, features={"image": vectors}, predictions=found, losses=losses, loss=loss)

    def _distance(self, written: Tensor, read: Tensor) -> Tensor:
        kind = "classes" if self.config.classes is not None else self.config.distance
        if kind == "classes":
            return F.cross_entropy(written.float(), read)
        if kind == "cosine":
            return (1 - F.cosine_similarity(written.float(), read.float(), dim=1)).mean()
        if kind == "binary":
            # As published: the two probabilities stand where logits are expected.
            sure, wanted = written.float().sigmoid(), read.float()
            return F.cross_entropy(torch.cat((sure, 1 - sure), 1), torch.cat((wanted, 1 - wanted), 1))
        return PLAIN[kind](written, read)
