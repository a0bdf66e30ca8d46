"""What may be written next where text and pictures share one vocabulary: rules for `DecodingConstraints.allowed`.

    ids a row has written so far -> rule -> the ids that may come next, or None for all of them

`Grid` writes one picture and nothing else (Emu3, arXiv 2409.18869): rows of codes, each followed by a row end, then a
fixed tail.  `Interleaved` lets text and pictures alternate (Chameleon, arXiv 2405.09818): begin-of-image is followed
by exactly as many codes as a picture has, and by end-of-image; codes stand nowhere else.
A picture therefore always has its length.  Rules hold no state: they read it off the ids.  A rule gives the same tensor
for the same ids, by which the sampler knows a mask that it has already.
Trap: the official Emu3 rule takes the tail for row ends when the grid is one or two columns wide; this one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A picture of `height` x `width` codes.  codes: ids of the codec.  row_end: behind every row, None for none.

    tail: ids behind the last row, in order.  after: what comes behind the tail for ever (padding).
    """

    height: int
    width: int
    codes: Tensor = field(compare=False)
    row_end: int | None = None
    tail: tuple[int, ...] = ()
    after: int | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ConfigError(f"grid: expected 1 x 1 or more, found {self.height} x {self.width}")

    @property
    def columns(self) -> int:
        """Ids of one row."""
        return self.width if self.row_end is None else self.width + 1

    @property
    def size(self) -> int:
        """Ids of the picture without its tail."""
        return self.height * self.columns

    def __call__(self, written: Sequence[int]) -> Tensor | None:
        """Ids allowed behind `written`; None once the picture and its tail are there and nothing is set to follow."""
        index = len(written)
        if index < self.size:
            at_end = self.row_end is not None and index % self.columns == self.width
            return self._single[self.row_end] if at_end else self.codes
        if index < self.size + len(self.tail):
            return self._single[self.tail[index - self.size]]
        return None if self.after is None else self._single[self.after]

    @cached_property
    def _single(self) -> dict[int | None, Tensor]:
        return {id: torch.tensor([id]) for id in (self.row_end, *self.tail, self.after) if id is not None}


@dataclass(frozen=True, kw_only=True)
class Interleaved:
    """Text and pictures of `length` codes.  begin, end: markers of a picture.  vocab_size: all ids there are.

    pictures False: text only.  inside: codes of an unfinished picture at the end of the prompt; -1: it ends in text,
    0: it ends in the begin marker.
    """

    codes: Tensor = field(compare=False)
    begin: int
    end: int
    length: int
    vocab_size: int
    pictures: bool = True
    inside: int = -1

    @cached_property
    def _end(self) -> Tensor:
        return torch.tensor([self.end])

    @cached_property
    def _text(self) -> Tensor:
        allowed = torch.ones(self.vocab_size, dtype=torch.bool)
        allowed[self.codes] = False
        allowed[self.end] = False
        if not self.pictures:
            allowed[self.begin] = False
        return allowed.nonzero().flatten()

    def __call__(self, written: Sequence[int]) -> Tensor:
        """Ids allowed behind `written`."""
        count = self._inside(written)
        if count < 0:
            return self._text
        return self.codes if count < self.length else self._end

    def _inside(self, written: Sequence[int]) -> int:
        """Codes of the open picture, -1 in text."""
        for back, id in enumerate(reversed(written)):
            if id == self.end:
                return -1
            if id == self.begin:
                return back
        return -1 if self.inside < 0 else self.inside + len(written)
