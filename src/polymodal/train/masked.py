"""Pictures and texts with hidden parts -> batches: BEiT's visual words, FLAVA's pairs, pictures and texts in turn.

    MaskedPictures      pixel_values, bool_masked_pos [N, P], labels [N, P]: ids of a codec, of the data or computed
    MaskedMultimodal    pixel_values, bool_masked_pos, codebook_pixel_values / input_ids, input_ids_masked, mlm_labels
    MaskedData          pixel_values, bool_masked_pos, image_labels / masked_input_ids, attention_mask, labels (BEiT-3)

Traps: random crops and colours of the published runs are not made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Image
from polymodal.data.pair_processor import PairProcessor
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.generators.dalle_codec import map_pixels
from polymodal.train.alignment import PatchMasking, WordMasking
from polymodal.train.batches import BatchOptions, InTurn, StepBatches
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind, counted
from polymodal.train.labelled import picture_of
from polymodal.train.pairs import captioned, cut, pair_processor, word_masking
from polymodal.train.picture_codes import PictureCodec, codebook_transform, codes_of


def patch_masking(grid: tuple[int, int], share: float | None) -> PatchMasking:
    """BEiT's blockwise masks of a share of the grid.  Raises ConfigError where the stage names none."""
    if share is None:
        raise ConfigError("hiding patches needs the stage's data to say which share (masked_patches)")
    patches = grid[0] * grid[1]
    count = max(1, round(share * patches))
    return PatchMasking(grid=grid, count=count, smallest=min(16, max(1, count // 3)))


@dataclass(frozen=True, kw_only=True)
class MaskedPictures(Collator):
    """codec: None where the data brings `codes`.  codes: how many the model knows; None: not looked at."""

    expects: ClassVar[str] = "pictures, with their codes where no codec is given"

    processor: PairProcessor
    masking: PatchMasking
    codec: PictureCodec | None = None
    codes: int | None = None

    def item(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Pixels, and the ids of the patches [P]."""
        picture = picture_of(sample)
        codes = codes_of(sample, picture, self.masking.grid, self.codec, self.codes)
        return self.processor.pixels(picture), codes

    def drawn(self, sample: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """And which patches are hidden [P]."""
        return *self.item(sample), self.masking(generator).flatten()

    def batch(self, items: Sequence[tuple[Tensor, Tensor, Tensor]], generator: torch.Generator) -> MicroBatch:
        """See MaskedImageModeling."""
        pixels, codes, hidden = (list(each) for each in zip(*items, strict=True))
        found = {"bool_masked_pos": torch.stack(hidden), "labels": torch.stack(codes)}
        batch = {**self.processor.collate(pixels, []), **found}
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

    def item(self, sample: Sample) -> tuple[Any, ...]:
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
            seen = codebook_transform(self.patches.grid)
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


@dataclass(frozen=True, kw_only=True)
class MaskedData(MaskedMultimodal):
    """words: of pairs; texts: of texts alone, of which fewer words are hidden.  codec, codes: as of MaskedPictures."""

    texts: WordMasking
    codec: PictureCodec | None = None
    codes: int | None = None

    def item(self, sample: Sample) -> tuple[Any, ...]:
        """A picture, a text, or both, and the ids of the picture's patches."""
        picture, text = super().item(sample)
        if picture is None:
            return picture, text
        return picture, text, codes_of(sample, picture, self.patches.grid, self.codec, self.codes)

    def batch(self, items: Sequence[tuple[Any, ...]], generator: torch.Generator) -> MicroBatch:
        """See MaskedDataModeling."""
        pictures = [picture for picture, *_ in items if picture is not None]
        ids = [cut(self.processor.ids(text), self.longest) for _, text, *_ in items if text]
        batch: dict[str, Any] = self.processor.collate([self.processor.pixels(each) for each in pictures], ids)
        if ids:
            masking = self.words if pictures else self.texts
            batch["masked_input_ids"], batch["labels"] = masking(batch["input_ids"], generator)
        if pictures:
            batch["bool_masked_pos"] = torch.stack([self.patches(generator).flatten() for _ in pictures])
            batch["image_labels"] = torch.stack([codes for _, _, codes in items])
        return counted(batch, len(items))


def kind_of(item: tuple[Any, ...]) -> str:
    """ "pairs", "pictures" or "texts"."""
    picture, text = item[:2]
    return "pairs" if picture is not None and text else "pictures" if picture is not None else "texts"


def masked_pictures(learner: Learner, grid: tuple[int, int], codes: int | None = None) -> MaskedPictures:
    """For an encoder of that many patches, and a head of so many codes."""
    masking = patch_masking(grid, learner.masked_patches)
    processor = pair_processor(learner, texts=False)
    return MaskedPictures(processor=processor, masking=masking, codec=picture_codec(learner), codes=codes)


def picture_codec(learner: Learner) -> PictureCodec | None:
    """That of the run, where one was given."""
    return None if learner.codec is None else PictureCodec(learner.codec)


def masked_multimodal(learner: Learner, grid: tuple[int, int]) -> MaskedMultimodal:
    """For a model of pictures and texts."""
    return MaskedMultimodal(
        processor=pair_processor(learner),
        patches=patch_masking(grid, learner.masked_patches),
        words=word_masking(learner, learner.masked_words or 0.15),
        longest=learner.max_length,
    )


def masked_data(learner: Learner, grid: tuple[int, int], codes: int, texts: float) -> MaskedData:
    """For a stack of that many patches.  texts: share of the words that are hidden where no picture is."""
    return MaskedData(
        processor=pair_processor(learner),
        patches=patch_masking(grid, learner.masked_patches),
        words=word_masking(learner, learner.masked_words or texts),
        texts=word_masking(learner, texts),
        longest=learner.max_length,
        codec=picture_codec(learner),
        codes=codes,
    )
