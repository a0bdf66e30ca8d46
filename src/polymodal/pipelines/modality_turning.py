"""Some modalities of a thing turned into others: pictures, words, boxes, ids -> what a model writes of the rest.

    {"rgb@224": picture, "caption": "a lake [S_1]"} -> batch -> chain (generation/masked_modalities.py) -> `Turned` each

A picture is cut to its middle square and scaled; words get an end; ids of grids are taken as they are, or made of a
picture by a codec.  Codecs turn what is written of a grid into values [C, H, W], some by steps of diffusion.
Traps: a sequence that is wanted and given holds signs ([S_1] ...) where something is to be written, and no end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from polymodal.data.media import Image, Text
from polymodal.data.normalise import Colour, as_picture, resize, to_tensor
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import centre_box
from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.decode_state import cast_batch
from polymodal.generation.masked_modalities import SpanIds, Written, write_modalities
from polymodal.models.masked_modalities import MaskedModalities

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGNS = 200


class GridCodec(Protocol):
    """Pictures or maps to ids [N, h, w], and back to values [N, C, H, W]."""

    def image_tokens(self, pixel_values: Tensor) -> Tensor: ...

    def write(self, ids: Tensor, *, seed: int = 0, steps: int | None = None) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Turned:
    """One modality that was written.  ids int64 [L], of a grid [h, w].  text: of a sequence, where there is a
    tokenizer.  meaning: what the text says, in records of its modality.  values: of a grid [C, H, W], by a codec."""

    modality: str
    ids: Tensor
    text: str | None = None
    meaning: Any = None
    values: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Turner:
    """A model with what a person needs.  meanings: modality -> what its text says.  spellings: the other way, texts of
    what is hidden as one (a box, a fact).  usual(modality, its config, what is given) -> how it is written where nobody
    says."""

    model: MaskedModalities
    tokenizer: Tokenizer | None
    meanings: Mapping[str, Callable[[str], Any]]
    spellings: Mapping[str, Callable[[Any], Sequence[str]]]
    usual: Callable[[str, ModalityConfig, Collection[str]], Written]

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.model.config.inputs)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(self.model.config.outputs)

    @property
    def ids(self) -> SpanIds:
        """Signs of spans; without a tokenizer those of the published vocabulary."""
        if self.tokenizer is None:
            return SpanIds(spans=tuple(range(4, 4 + SIGNS)))
        count = next((i for i in range(SIGNS + 1) if not self.tokenizer.knows(f"[S_{i}]")), SIGNS)
        special = self.tokenizer.special
        spans = tuple(special(f"[S_{i}]") for i in range(count))
        return SpanIds(spans=spans, pad=special("[PAD]"), end=special("[EOS]"))

    def __call__(
        self,
        given: Mapping[str, Any],
        into: Sequence[str | Written],
        *,
        codecs: Mapping[str, GridCodec] | None = None,
        seed: int = 0,
        steps: int | None = None,
    ) -> dict[str, Turned]:
        """steps: of codecs that draw by diffusion; None: as many as they usually take.

        Raises PromptError for what a modality cannot be, ConfigError where words need a tokenizer.
        """
        wanted = [self._written(each, given) for each in into]
        if not given or not wanted:
            raise PromptError("turn: name at least one modality that is given and one that is wanted")
        if len({each.modality for each in wanted}) < len(wanted):
            raise PromptError("turn: a modality is wanted twice")
        codecs, names = codecs or {}, {each.modality for each in wanted}
        batch = {f"{name}.tensor": self.tensor(name, item, name in names, codecs) for name, item in given.items()}
        batch = cast_batch(batch, self.model.mask_token)
        found = write_modalities(self.model, batch, wanted, self.ids, seed=seed, grow=True)
        write = {name: partial(codec.write, seed=seed, steps=steps) for name, codec in codecs.items()}
        return {name: self._turned(name, ids[0].cpu(), write.get(name)) for name, ids in found.items()}

    def _written(self, each: str | Written, given: Collection[str]) -> Written:
        if isinstance(each, Written):
            return each
        return self.usual(each, self.model.writer(each).config, given)

    def tensor(
        self, name: str, item: Any, wanted: bool = False, codecs: Mapping[str, GridCodec] | None = None
    ) -> Tensor:
        """One row of a modality.  wanted: it is to be written too.  Raises PromptError for what it cannot be."""
        config = self.model.modality(name)
        if name not in self.model.config.inputs:
            raise PromptError(f"the model does not read {name}; it reads {', '.join(self.reads)}")
        if isinstance(item, Tensor):
            return item[None]
        if config.kind == "sequence" and not isinstance(item, Image):
            return torch.tensor([self._words(item, name, wanted)])
        if isinstance(item, Image) and config.kind == "pixels":
            return middle_square(item, config.patch * config.grid[0], MEAN, STD)[None]
        if isinstance(item, Image) and config.kind == "grid" and name in (codecs or {}):
            half = (0.5, 0.5, 0.5)
            seen = middle_square(item, config.patch * config.grid[0], half, half)
            return (codecs or {})[name].image_tokens(seen[None]).flatten(1)
        right = {"pixels": "a picture", "sequence": "a text or ids", "vectors": "vectors [L, E]",
                 "grid": "ids [h, w], or a picture and a codec"}[config.kind]  # fmt: skip
        raise PromptError(f"{name}: expected {right}, found {type(item).__name__.lower()}")

    def pieces(self, name: str, item: Any) -> list[list[int]]:
        """A sequence as ids: of each token one, of boxes and facts a piece for each.

        item: words, ids, or what the words stand for.  Raises PromptError, ConfigError.
        """
        if isinstance(item, list | tuple) and item and all(type(each) is int for each in item):
            return [[token] for token in item]
        if isinstance(item, str | Text):
            return [[token] for token in self._encoded(item if isinstance(item, str) else item.text)]
        spelled = self.spellings.get(name)
        if spelled is None:
            raise PromptError(f"{name}: expected a text or ids, found {type(item).__name__.lower()}")
        return [self._encoded(piece) for piece in spelled(item)]

    def _encoded(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise ConfigError("words need the model's tokenizer: put text_tokenizer_4m_wordpiece_30k.json of its code "
                              "into the folder as tokenizer.json, or give ids")  # fmt: skip
        return self.tokenizer.encode(text, allow_special=True)

    def _words(self, item: Any, name: str, wanted: bool) -> list[int]:
        ids = [token for piece in self.pieces(name, item) for token in piece]
        ids = ids if wanted else [*ids, self.ids.end]
        if len(ids) > (most := self.model.modality(name).longest):
            raise PromptError(f"{name}: expected at most {most} tokens, found {len(ids)}")
        return ids

    def _turned(self, name: str, ids: Tensor, write: Callable[[Tensor], Tensor] | None) -> Turned:
        config = self.model.modality(name)
        if not config.is_sequence:
            grid = ids.view(config.grid)
            values = None if write is None else write(grid[None])[0]
            return Turned(modality=name, ids=grid, values=values)
        if self.tokenizer is None:
            return Turned(modality=name, ids=ids)
        ends = (ids == self.ids.end).nonzero()
        words = ids[: int(ends[0])] if len(ends) else ids[ids != self.ids.pad]
        plain = self.tokenizer.decode(words.tolist(), skip_special=name == "caption")
        meaning = self.meanings.get(name)
        return Turned(modality=name, ids=ids, text=plain, meaning=None if meaning is None else meaning(plain))


def middle_square(item: Image, side: int, mean: Colour, std: Colour) -> Tensor:
    """The middle square of a picture, scaled: [3, side, side]."""
    picture = as_picture(item)
    picture = picture.crop(centre_box(*picture.size, min(picture.size), "even"))
    return to_tensor(resize(picture, (side, side), "bicubic"), mean, std)
