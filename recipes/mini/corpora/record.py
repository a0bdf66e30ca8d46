"""One record for a labelled picture, and the two rules every set obeys: the split and the leak guards.

Flow: a reader (`tuxpaint.open(folder, lexicon)` ...) gives a `Corpus`: its pictures and a way to draw each one
      -> `split_of(key)` has already put each concept on one side
      -> `near_test` removes from training what looks like a test picture (guard 1)
      -> `mark_words` says which test words training has seen, and which training pictures a zero-shot claim
         must leave out (guard 2).
Traps: the key names a concept, never a file: every style, size and skin tone of it falls on one side.
       Pictures of a style kept for testing have split "style" where their concept is a training concept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from corpora.wordlists import word_set
from polymodal.data.sets.split import NEAR, near_any, normalise

if TYPE_CHECKING:
    import PIL.Image

ZERO_SHOT_SETS = frozenset({"tuxpaint", "openclipart", "fluent"})  # their test words are what claims rest on
# Names so broad that sharing them says nothing about having seen the thing.
BROAD = word_set(
    "flag sign symbol icon face person map letter number button clock card playing card picture animal food "
    "plant man woman people coin hand drawing arrow shape road sign"
) | {"playing card", "road sign"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A labelled picture that is not loaded yet.

    nouns: the exact names that are right, best first.  broader: names that are true but less exact.  related:
    key words of the source.  caption: a short phrase starting in lower case.  category: the source's own folder
    or group.  kind: one of `lexicon.KINDS` or None.  path, index: where the picture lies inside its package.
    """

    id: str
    corpus: str
    style: str
    key: str
    split: str
    nouns: tuple[str, ...]
    caption: str
    path: str
    index: int = 0
    broader: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    category: str = ""
    kind: str | None = None
    colour: str | None = None
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The pictures of one package and the function that draws one of them (RGBA or RGB, any size)."""

    name: str
    pictures: tuple[Picture, ...]
    image: Callable[[Picture], PIL.Image.Image]


def near_test(pictures: Sequence[Picture], hashes: Sequence[int], bits: int = NEAR) -> np.ndarray:
    """Leak guard 1, bool [N], True where a picture must go.

    A training picture goes when it is near any test picture of any set.  A "style" picture (training concept,
    unseen style) goes when it is near a training picture that stays: there the style is not unseen.
    """
    split = np.array([picture.split for picture in pictures])
    codes = np.asarray(hashes, dtype=np.uint64)
    drop = np.zeros(len(split), dtype=bool)
    train, style = split == "train", split == "style"
    drop[train] = near_any(codes[train], codes[split == "test"], bits)
    drop[style] = near_any(codes[style], codes[train & ~drop], bits)
    return drop


def names(picture: Picture) -> frozenset[str]:
    """The normalised words by which two pictures can share a concept: exact names and caption, articles off."""
    caption = re.sub(r"^(a|an|the|some|two|three) ", "", normalise(picture.caption))
    found = {normalise(noun) for noun in picture.nouns} | {caption}
    return frozenset(found - BROAD - {""})


def mark_words(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Leak guard 2: for each picture the marks `train_strict`, `seen` and `seen_strict`.

    train_strict: a training picture that shares no name with a test concept of another of the claim-bearing
    sets.  seen: the main noun or the caption of this picture is a name of some training picture (None for
    training pictures).  seen_strict: the same, counting only pictures that are train_strict.
    """
    test: dict[str, set[str]] = {}
    for picture in pictures:
        if picture.split == "test" and picture.corpus in ZERO_SHOT_SETS:
            for name in names(picture):
                test.setdefault(name, set()).add(picture.corpus)
    strict = [
        picture.split == "train" and all(test.get(name, set()) <= {picture.corpus} for name in names(picture))
        for picture in pictures
    ]
    trained: set[str] = set()
    trained_strict: set[str] = set()
    for picture, pure in zip(pictures, strict, strict=True):
        if picture.split == "train":
            trained |= names(picture)
            trained_strict |= names(picture) if pure else frozenset()
    marks = []
    for picture, pure in zip(pictures, strict, strict=True):
        own = names(replace(picture, nouns=picture.nouns[:1]))
        training = picture.split == "train"
        marks.append(
            {
                "train_strict": pure,
                "seen": None if training else bool(own & trained),
                "seen_strict": None if training else bool(own & trained_strict),
            }
        )
    return marks


def as_json(picture: Picture, marks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The record as one line of `pictures.jsonl`, with the marks of guard 2 and whatever `more` is known."""
    return {**asdict(picture), **more, **marks}
