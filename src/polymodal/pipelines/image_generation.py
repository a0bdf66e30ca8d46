"""From words to pictures where pictures are ids: prompt, guidance, grammar, the codec's way back.

    text -> ids, begin marker, "h*w", image marker -> guided by a negative text, within the grid -> ids of the picture
         -> codes -> pixels [3, H, W]

Emu3 (arXiv 2409.18869).  Trap: the guided branch is answered within the grammar, so its row ends and its tail cost a
step each like every code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.fusion.vocabulary import Spelling
from polymodal.generation.grammars import Grid
from polymodal.generation.guidance import guided
from polymodal.generation.output import DecodingConstraints, per_row
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.discrete_token_lm import DiscreteTokenLM

STEPS = 1000  # of diffusion, at most
DRAWN = SamplingOptions(temperature=1.0, top_k=2048)
Step = Callable[[int, int], None]
"""(ids that are written, ids of all pictures): told after each; what it raises ends the work"""


def unseen(written: int, whole: int) -> None:
    """Nobody watches."""


def check_steps(steps: Any) -> None:
    """Raises ConfigError for a number of steps that no diffusion has."""
    if steps is not None and (type(steps) is not int or not 1 <= steps <= STEPS):
        raise ConfigError(f"steps: expected 1 to {STEPS} steps of diffusion, found {steps!r}")


@dataclass(frozen=True, kw_only=True)
class PaintRequest:
    """A wish for pictures.  size: (width, height) in pixels, None: the model's usual.  seeds: of each picture.

    steps: of diffusion, None: the model's usual.  parts: texts and pictures of the wish in order, for a painter that
    takes pictures too.
    """

    text: str
    size: tuple[int, int] | None = None
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    parts: tuple[Any, ...] = ()
    step: Step = unseen

    def require_no_steps(self) -> None:
        """Raises ConfigError for a wish of steps, of a painter that has none."""
        if self.steps is not None:
            raise ConfigError("steps: this model writes its pictures id by id, not in steps of diffusion")

    def require_size(self, width: int, height: int) -> None:
        """Raises ConfigError for a wish of another size than the only one that a painter writes."""
        if self.size not in (None, (width, height)):
            asked = "x".join(map(str, self.size or ()))
            raise ConfigError(f"size {asked}: this model writes {width}x{height} pixels")


@runtime_checkable
class SeesWishes(Protocol):
    """A painter that takes the pictures of a wish too."""

    sees: bool


@dataclass(frozen=True, kw_only=True)
class PictureFormat:
    """Ids around a picture.  bos: before the text; begin, image: around "h*w"; tail: behind the last row, in order."""

    bos: int
    begin: int
    image: int
    tail: tuple[int, ...]
    pad: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, bos: str, begin: str, image: str, tail: Sequence[str], pad: str) -> PictureFormat:
        """By the names of the tokens.  Raises UnknownName for one that the tokenizer lacks."""
        ids = {name: tokenizer.special(name) for name in (bos, begin, image, *tail, pad)}
        return cls(bos=ids[bos], begin=ids[begin], image=ids[image], tail=tuple(ids[t] for t in tail), pad=ids[pad])

    def prompt(self, tokenizer: Tokenizer, text: str, size: tuple[int, int]) -> list[int]:
        """Ids that make the model write a picture of `size` (height, width in codes)."""
        grid = tokenizer.encode(f"{size[0]}*{size[1]}")
        return [self.bos, *tokenizer.encode(text), self.begin, *grid, self.image]


def size_of(ratio: str, area: int, factor: int) -> tuple[int, int]:
    """Height and width in codes of a picture of `area` pixels; ratio: width to height; factor: pixels a code."""
    width, height = map(int, ratio.split(":"))
    scale = (area / (width * height)) ** 0.5
    return round(height * scale / factor), round(width * scale / factor)


def batch_of(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """Rows of ids padded on the left."""
    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def paint(
    model: DiscreteTokenLM,
    prompts: Sequence[Sequence[int]],
    negatives: Sequence[Sequence[int]],
    sizes: Sequence[tuple[int, int]],
    layout: PictureFormat,
    *,
    scale: float = 3.0,
    options: SamplingOptions | Sequence[SamplingOptions] = DRAWN,
    step: Step = unseen,
) -> list[Tensor]:
    """Pictures [3, H, W] in about [-1, 1] for prompts of ids, steered away from `negatives`.

    sizes: (height, width) in codes of each.  scale: 1 = unguided.  options: how codes are drawn, of all or of each.
    Raises ConfigError for a codec that is not written row by row.
    """
    spelling = model.connectors["image"]
    if not isinstance(spelling, Spelling):
        raise ConfigError("paint: this model has no picture ids")
    codes = spelling.vocabulary.ids("image")
    grids = [Grid(height=h, width=w, codes=codes, row_end=spelling.row_end, tail=layout.tail, after=layout.pad)
             for h, w in sizes]  # fmt: skip
    rows = [replace(each, max_tokens=grid.size + len(grid.tail))
            for each, grid in zip(per_row(options, len(grids)), grids, strict=True)]  # fmt: skip
    device = model.backbone.embed_tokens.weight.device
    batches = [{name: tensor.to(device) for name, tensor in batch_of(texts, layout.pad).items()}
               for texts in (prompts, negatives)]  # fmt: skip
    whole = sum(row.max_tokens for row in rows)
    written: list[list[int]] = [[] for _ in grids]
    constraints = DecodingConstraints(eos=frozenset(), allowed=grids, allow_past_context=True, placeholders=True)
    for piece in guided(model, batches, (scale, 1 - scale), rows, constraints):
        written[piece.row].append(piece.id)
        step(sum(map(len, written)), whole)
    found = []
    for ids, grid in zip(written, grids, strict=True):
        spelled = torch.tensor([ids[: grid.size]], device=device)
        found.append(model.pixels("image", spelled, grid.height, grid.width)[0])
    return found


@dataclass(frozen=True, kw_only=True)
class GridPainter:
    """A model that writes pictures row by row, with the words that its authors put around a wish.

    positive: added to it; negative: what is steered away from.  factor: pixels of a code along a side.  area: pixels of
    a usual picture.  most: of any.  pixels(float [3, H, W]) -> uint8 [H, W, 3].
    """

    model: DiscreteTokenLM
    tokenizer: Tokenizer
    layout: PictureFormat
    pixels: Callable[[Tensor], Tensor]
    factor: int
    area: int
    most: int
    positive: str = ""
    negative: str = ""

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [H, W, 3] of each picture.  Raises ConfigError for a size that the model cannot write."""
        request.require_no_steps()
        size = self._grid(request.size)
        prompt = self.layout.prompt(self.tokenizer, request.text + self.positive, size)
        negative = self.layout.prompt(self.tokenizer, self.negative, size)
        room = self.model.backbone.config.max_length
        needed = max(len(prompt), len(negative)) + size[0] * (size[1] + 1) + len(self.layout.tail)
        if room is not None and needed > room:
            raise ConfigError(f"the picture and its text take {needed:,} ids, the model's context holds {room:,}")
        count = len(request.seeds)
        options = [replace(DRAWN, seed=seed) for seed in request.seeds]
        found = paint(
            self.model, [prompt] * count, [negative] * count, [size] * count, self.layout,
            options=options, step=request.step,
        )  # fmt: skip
        return [self.pixels(picture) for picture in found]

    def _grid(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width in codes."""
        if size is None:
            return size_of("1:1", self.area, self.factor)
        width, height = size
        if width < 1 or height < 1 or width % self.factor or height % self.factor or width * height > self.most:
            sides = f"sides in multiples of {self.factor} pixels, {self.most:,} pixels in all"
            raise ConfigError(f"size {width}x{height}: expected {sides}")
        return height // self.factor, width // self.factor
