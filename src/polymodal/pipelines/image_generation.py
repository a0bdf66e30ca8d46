"""From words to pictures where pictures are ids: prompt, guidance, grammar, the codec's way back.

    text -> ids, begin marker, "h*w", image marker -> guided by a negative text, within the grid -> ids of the picture
         -> codes -> pixels [3, H, W]

Emu3 (arXiv 2409.18869).  Trap: the guided branch is answered within the grammar, so its row ends and its tail cost a
step each like every code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.fusion.vocabulary import Spelling
from polymodal.generation.grammars import Grid
from polymodal.generation.guidance import guided
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.discrete_token_lm import DiscreteTokenLM


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
    options: SamplingOptions | None = None,
) -> list[Tensor]:
    """Pictures [3, H, W] in about [-1, 1] for prompts of ids, steered away from `negatives`.

    sizes: (height, width) in codes of each.  scale: 1 = unguided.  options: how codes are drawn; default the best 2048.
    Raises ConfigError for a codec that is not written row by row.
    """
    spelling = model.connectors["image"]
    if not isinstance(spelling, Spelling):
        raise ConfigError("paint: this model has no picture ids")
    options = options or SamplingOptions(temperature=1.0, top_k=2048)
    codes = spelling.vocabulary.ids("image")
    grids = [Grid(height=h, width=w, codes=codes, row_end=spelling.row_end, tail=layout.tail, after=layout.pad)
             for h, w in sizes]  # fmt: skip
    rows = [replace(options, max_tokens=grid.size + len(grid.tail)) for grid in grids]
    batches = [batch_of(prompts, layout.pad), batch_of(negatives, layout.pad)]
    written: list[list[int]] = [[] for _ in grids]
    constraints = DecodingConstraints(eos=frozenset(), allowed=grids, allow_past_context=True, placeholders=True)
    for piece in guided(model, batches, (scale, 1 - scale), rows, constraints):
        written[piece.row].append(piece.id)
    found = []
    for ids, grid in zip(written, grids, strict=True):
        spelled = torch.tensor([ids[: grid.size]], device=model.backbone.embed_tokens.weight.device)
        found.append(model.pixels("image", spelled, grid.height, grid.width)[0])
    return found
