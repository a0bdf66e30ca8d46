"""What PaLM-E's processor makes of pictures, states and scenes.

state   numbers [S] of a robot or [n, S] of n objects; as .npy from the command line, pm.array(x, "state") in Python
scene   posed views [V, H, W, 9] (`encoders/osrt.py`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.data.item_rules import SameCount
from polymodal.data.media import Array
from polymodal.data.modalities import sequences
from polymodal.data.normalise import HALF
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Words
from polymodal.data.transforms import Squash
from polymodal.encoders.osrt import CHANNELS, OSRTConfig
from polymodal.errors import ConfigError, MediaError
from polymodal.systems import CheckpointFiles
from polymodal.systems.palm_e.sentences import END, Sentences

PLACEHOLDERS = {"image": "<img>", "state": "<emb>", "scene": "<slot>"}
STATES, COUNTS = "state_values", "state_counts"


@dataclass(frozen=True)
class States:
    """An array of numbers -> [size] or [n, size], as it is."""

    size: int

    def __call__(self, item: Array) -> Tensor:
        found = item.values
        if found.ndim not in (1, 2) or found.shape[-1] != self.size:
            raise MediaError(
                f"state: expected {self.size} numbers, or rows of {self.size} for objects, found {list(found.shape)}"
            )
        return finite("state", found)


@dataclass(frozen=True)
class Views:
    """An array of posed views -> [V, H, W, 9]."""

    height: int
    width: int

    def __call__(self, item: Array) -> Tensor:
        found, wanted = item.values, (self.height, self.width, CHANNELS)
        if found.ndim != 4 or found.shape[1:] != wanted:
            raise MediaError(f"scene: expected views [V, {', '.join(map(str, wanted))}], found {list(found.shape)}")
        return finite("scene", found)


def finite(name: str, found: Any) -> Tensor:
    """The numbers as float32; raises MediaError for infinite ones."""
    numbers = torch.from_numpy(found).float()
    if not numbers.isfinite().all():
        raise MediaError(f"{name}: expected finite numbers, found {int((~numbers.isfinite()).sum())} that are not")
    return numbers


@dataclass(frozen=True)
class StateTokens:
    """So many tokens for each row of an item."""

    each: int

    def __call__(self, values: Tensor) -> int:
        return self.each if values.dim() == 1 else len(values) * self.each


@dataclass(frozen=True)
class Named:
    """The layout of objects: "Obj 1 is <obj 1>. Obj 2 is <obj 2>.", each with its embeddings; one vector has no name.

    count: objects of every item, None for as many as it has rows.
    """

    placeholder: str
    each: int
    count: int | None = None

    def __call__(self, values: Tensor) -> Sequence[str | Words]:
        embeddings = [self.placeholder] * self.each
        if values.dim() == 1:
            return embeddings
        written: list[str | Words] = []
        count = len(values) if self.count is None else self.count
        for number in range(1, count + 1):
            space = " " if number > 1 else ""
            written += [Words(text=f"{space}Obj {number} is "), *embeddings, Words(text=".")]
        return written


@dataclass(frozen=True)
class StateRows:
    """`state_values` [all rows, size] and how many each item has."""

    def __call__(self, items: Sequence[Tensor]) -> dict[str, Any]:
        return sequences(STATES, COUNTS)([item if item.dim() == 2 else item[None] for item in items])


def processor(
    files: CheckpointFiles,
    placeholders: Mapping[str, int],
    *,
    picture: tuple[int, int] | None,
    state: tuple[int, int] | None,
    scene: tuple[OSRTConfig, int] | None,
    max_length: int,
) -> Processor:
    """picture: side and tokens; state: numbers of a row and its tokens; scene: its encoder and tokens of a slot."""
    tokenizer = files.tokenizer(control=(*(PLACEHOLDERS[name] for name in placeholders), END), eos=END, pad=END)
    for name, wanted in placeholders.items():
        if (found := tokenizer.special(PLACEHOLDERS[name])) != wanted:
            mark = PLACEHOLDERS[name]
            raise ConfigError(f"palm-e: the vocabulary has {mark} at {found}, the model expects {wanted}; say "
                              f"{name}_token_id in config.json")  # fmt: skip
    modalities = []
    if picture is not None:
        side, tokens = picture
        modalities.append(Modality(name="image", placeholder=PLACEHOLDERS["image"], tokens=SameCount(tokens),
                                   transform=Squash(height=side, width=side, mean=HALF, std=HALF)))  # fmt: skip
    if state is not None:
        size, each = state
        modalities.append(Modality(name="state", placeholder=PLACEHOLDERS["state"], transform=States(size),
                                   tokens=StateTokens(each), layout=Named(PLACEHOLDERS["state"], each),
                                   collate=StateRows(), values=STATES))  # fmt: skip
    if scene is not None:
        seen, each = scene
        modalities.append(Modality(name="scene", placeholder=PLACEHOLDERS["scene"], transform=Views(*seen.image_size),
                                   tokens=SameCount(seen.slots * each), token_type=10,
                                   layout=Named(PLACEHOLDERS["scene"], each, seen.slots)))  # fmt: skip
    arrays = tuple(name for name in ("state", "scene") if name in placeholders)
    template = Sentences(array=arrays[0] if len(arrays) == 1 else "", slots=0 if scene is None else scene[0].slots)
    return Processor(tokenizer=tokenizer, template=template, modalities=modalities, max_length=max_length)
