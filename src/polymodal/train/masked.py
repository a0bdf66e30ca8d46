"""Pictures and texts with hidden parts -> batches: BEiT's visual words, FLAVA's pairs, pictures and texts in turn.

    MaskedPictures      pixel_values, bool_masked_pos [N, P], labels [N, P]: ids of a codec, of the data or computed
    MaskedMultimodal    pixel_values, bool_masked_pos, codebook_pixel_values / input_ids, input_ids_masked, mlm_labels

Traps: the codec sees a picture of its own size (a patch is 8 x 8 of its pixels) and its own colours; random crops and
colours of the published runs are not made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.sample import Sample
from polymodal.data.hf_image import PublishedTransform
from polymodal.data.media import Image
from polymodal.data.pair_processor import PairProcessor
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.generators.dalle_codec import map_pixels
from polymodal.train.alignment import PatchMasking, WordMasking
from polymodal.train.batches import BatchOptions, InTurn, StepBatches
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind, counted
from polymodal.train.labelled import picture_of
from polymodal.train.pairs import captioned, cut, pair_processor, word_masking

CODEC_PIXELS = 8  # along a side of a patch


def patch_masking(grid: tuple[int, int], share: float | None) -> PatchMasking:
    """BEiT's blockwise masks of a share of the grid.  Raises ConfigError where the stage names none."""
    if share is None:
        raise ConfigError("hiding patches needs the stage's data to say which share (masked_patches)")
    patches = grid[0] * grid[1]
    count = max(1, round(share * patches))
    return PatchMasking(grid=grid, count=count, smallest=min(16, max(1, count // 3)))


@dataclass(frozen=True, kw_only=True)
class MaskedPictures(Collator):
    """codec: pixels -> logits [N, V, h, w]; None: the data brings `codes`."""

    expects: ClassVar[str] = "pictures, with their codes where no codec is given"

    processor: PairProcessor
    masking: PatchMasking
    codec: nn.Module | None = None

    def item(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Pixels, and the ids of the patches [P]."""
        picture = picture_of(sample)
        rows, columns = self.masking.grid
        if (given := sample.arrays.get("codes")) is not None:
            codes = torch.as_tensor(given.values).flatten().long()
        elif self.codec is not None:
            pixels = codec_transform(self.masking.grid)(picture)[None]
            with torch.no_grad():
                codes = self.codec(pixel_values=map_pixels(pixels)).logits.argmax(1).flatten()
        else:
            raise WrongKind("has no codes; give --codec, a checkpoint of FlavaImageCodebook")
        if len(codes) != rows * columns:
            raise PromptError(f"has {len(codes)} codes; expected one for each of {rows} x {columns} patches")
        return self.processor.pixels(picture), codes

    def batch(self, items: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator) -> MicroBatch:
        """Masks are drawn here."""
        pixels, codes = zip(*items, strict=True)
        hidden = torch.stack([self.masking(generator).flatten() for _ in items])
        batch = {**self.processor.collate(pixels, []), "bool_masked_pos": hidden, "labels": torch.stack(codes)}
        return counted(batch, len(items))


@dataclass(frozen=True, kw_only=True)
class MaskedMultimodal(Collator):
    """A data set holds pairs, pictures or texts; steps take the data sets in turn.

    kind: of the one that is read; "": whatever a sample is.
    """

    expects: ClassVar[str] = "pictures with captions, pictures alone or texts alone, a data set of each"
    compares: ClassVar[bool] = True

    processor: PairProcessor
    patches: PatchMasking
    words: WordMasking
    longest: int | None = None
    kind: str = ""

    def item(self, sample: Sample) -> tuple[Image | None, str]:
        """A picture, a text, or both.  Raises WrongKind for what the data set else does not hold."""
        found: tuple[Image | None, str] = None, sample.text
        if sample.media:
            found = picture_of(sample), ""
        elif sample.messages:
            medium, text = captioned(sample)
            if not isinstance(medium, Image):
                raise WrongKind(f"has {medium.modality} where a picture is expected")
            found = medium, "" if self.kind == "pictures" else text
        if sample.features or found == (None, ""):
            raise WrongKind("is neither a picture nor a text")
        if self.kind and kind_of(found) != self.kind:
            raise WrongKind(f"is of {kind_of(found)}, its data set of {self.kind}")
        return found

    def batch(self, items: Sequence[tuple[Image | None, str]], generator: torch.Generator) -> MicroBatch:
        """See MaskedMultimodalModeling."""
        pictures = [picture for picture, _ in items if picture is not None]
        ids = [cut(self.processor.ids(text), self.longest) for _, text in items if text]
        batch: dict[str, Any] = self.processor.collate([self.processor.pixels(each) for each in pictures], ids)
        if ids:
            batch["input_ids_masked"], batch["mlm_labels"] = self.words(batch["input_ids"], generator)
        if pictures:
            batch["bool_masked_pos"] = torch.stack([self.patches(generator).flatten() for _ in pictures])
            seen = codec_transform(self.patches.grid)
            batch["codebook_pixel_values"] = map_pixels(torch.stack([seen(each) for each in pictures]))
        return counted(batch, len(items))

    def steps(self, mixture: Mixture, options: BatchOptions) -> InTurn:
        """Each data set by itself, in turn."""
        return InTurn(
            kinds=[
                StepBatches(
                    collator=replace(self, kind=self.kind_in(each)),
                    mixture=Mixture([each], seed=mixture.seed, shuffle=mixture.shuffle),
                    options=options,
                )
                for each in mixture.datasets
            ]
        )

    def kind_in(self, dataset: Any) -> str:
        """Of the first sample that can be read.  Pictures that are labelled count as pictures."""
        for index in range(len(dataset)):
            try:
                sample = dataset.sample(index)
                return "pictures" if sample.labels is not None else kind_of(self.item(sample))
            except (PromptError, MediaError):
                continue
        raise ConfigError(f"{dataset.path} has no sample that can be read")


def kind_of(item: tuple[Image | None, str]) -> str:
    """ "pairs", "pictures" or "texts"."""
    picture, text = item
    return "pairs" if picture is not None and text else "pictures" if picture is not None else "texts"


def codec_transform(grid: tuple[int, int]) -> PublishedTransform:
    """Picture -> what the codec sees of it, before its colours are mapped."""
    return PublishedTransform(size=(CODEC_PIXELS * grid[0], CODEC_PIXELS * grid[1]), interpolation="lanczos")


def masked_pictures(learner: Learner, grid: tuple[int, int]) -> MaskedPictures:
    """For an encoder of that many patches."""
    masking = patch_masking(grid, learner.masked_patches)
    processor = pair_processor(learner, texts=False)
    return MaskedPictures(processor=processor, masking=masking, codec=learner.codec)


def masked_multimodal(learner: Learner, grid: tuple[int, int]) -> MaskedMultimodal:
    """For a model of pictures and texts."""
    return MaskedMultimodal(
        processor=pair_processor(learner),
        patches=patch_masking(grid, learner.masked_patches),
        words=word_masking(learner, learner.masked_words or 0.15),
        longest=learner.max_length,
    )
