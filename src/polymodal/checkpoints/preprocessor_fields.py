"""What a preprocessor_config.json may say: sides, patches and colours are checked before a transform is made of them.

    {"size": {"height": 10**9, "width": 4}}  ->  ConfigError: ... size.height: expected a whole number from 1 to ...

A transform is only called when a picture comes; what is wrong with its settings is said when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError
from polymodal.fields import shown
from polymodal.weights.config_limits import ConfigLimits, config_limits, how_to_raise

SIZES = frozenset({"size", "crop_size", "image_size", "pad_size", "input_size"})
WHOLE = frozenset({"patch_size", "temporal_patch_size", "merge_size", "size_divisor", "image_seq_length", "num_frames",
                   "max_image_tiles", "max_patches", "resample"})  # fmt: skip
PIXELS = frozenset({"min_pixels", "max_pixels"})
NUMBERS = frozenset({"rescale_factor", "image_mean", "image_std"})


def check_preprocessor(settings: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError, naming the field, for a size, number of patches or colour that is none."""
    limits = config_limits()
    for name, value in settings.items():
        if value is None:
            continue
        if name in SIZES:
            _check_size(name, value, limits, path)
        elif name in WHOLE:
            _require(_leaves(name, value), 0, limits.sides, path)
        elif name in PIXELS:
            _require([(name, value)], 1, limits.picture, path)
        elif name in NUMBERS:
            for where, number in _leaves(name, value):
                if not _is_number(number) or (name == "image_std" and number == 0):
                    kind = "a number other than 0" if name == "image_std" else "a number"
                    raise ConfigError(f"{path}: {where:.80}: expected {kind}, found {shown(number)}")


def _check_size(name: str, value: Any, limits: ConfigLimits, path: Path) -> None:
    """One side of a square, two sides, or bounds of the edges, which may be numbers of pixels."""
    sides = _leaves(name, value)
    edges = isinstance(value, Mapping) and any("edge" in str(key) or "pixels" in str(key) for key in value)
    _require(sides, 1, limits.picture if edges else limits.sides, path)
    pixels = math.prod(side for _, side in sides) ** (2 if len(sides) == 1 else 1)
    if pixels > limits.picture and not edges:
        raise ConfigError(f"{path}: {name} asks for pictures of {pixels:,} pixels, the limit is {limits.picture:,}; "
                          f"{how_to_raise('picture', pixels)}")  # fmt: skip


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    """The entries of a table or list of sides by their paths, or the value itself."""
    if isinstance(value, Mapping):
        return [(f"{name}.{key}", each) for key, each in value.items() if each is not None]
    if isinstance(value, list | tuple):
        return [(f"{name}[{index}]", each) for index, each in enumerate(value)]
    return [(name, value)]


def _require(each: list[tuple[str, Any]], least: int, most: int, path: Path) -> None:
    for name, value in each:
        if not _is_whole(value) or not least <= value <= most:
            kind = f"a whole number from {least} to {most:,}"
            raise ConfigError(f"{path}: {name:.80}: expected {kind}, found {shown(value)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6
