"""What a preprocessor_config.json may say: sides, patches and colours are checked before a transform is made of them.

    {"size": {"height": 10**9, "width": 4}}  ->  ConfigError: ... size.height: expected a whole number from 1 to ...

A transform is only called when a picture comes; what is wrong with its settings is said when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError
from polymodal.fields import shown
from polymodal.weights.config_limits import MAX_PICTURE, MAX_SIDE, RAISE, raised

Check = Callable[[Any], bool]
SIZES = frozenset({"size", "crop_size", "image_size", "pad_size", "input_size"})
WHOLE = frozenset({"patch_size", "temporal_patch_size", "merge_size", "size_divisor", "image_seq_length", "num_frames",
                   "max_image_tiles", "max_patches", "resample"})  # fmt: skip
PIXELS = frozenset({"min_pixels", "max_pixels"})
NUMBERS = frozenset({"rescale_factor", "image_mean", "image_std"})


def check_preprocessor(settings: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError, naming the field, for a size, number of patches or colour that is none."""
    largest = raised(MAX_PICTURE)
    for name, value in settings.items():
        if value is None:
            continue
        if name in SIZES:
            each = list(_leaves(name, value))
            pixels = math.prod(side for _, side in each if _is_whole(side) and side > 0) if len(each) == 2 else 0
            edges = isinstance(value, Mapping) and any("edge" in str(key) for key in value)  # may be numbers of pixels
            most = largest if edges else MAX_SIDE
            _require(
                each, lambda x, most=most: _is_whole(x) and 0 < x <= most, f"a whole number from 1 to {most:,}", path
            )
            if len(each) == 1 and not edges:
                pixels = each[0][1] ** 2
            if pixels > largest and not edges:
                raise ConfigError(f"{path}: {name} asks for pictures of {pixels:,} pixels, the limit is {largest:,}; "
                                  f"for a model of your own set {RAISE}=10")  # fmt: skip
        elif name in WHOLE:
            _require(_leaves(name, value), lambda x: _is_whole(x) and 0 <= x <= MAX_SIDE,
                     f"a whole number from 0 to {MAX_SIDE:,}", path)  # fmt: skip
        elif name in PIXELS:
            _require([(name, value)], lambda x: _is_whole(x) and 0 < x <= largest,
                     f"a whole number from 1 to {largest:,}", path)  # fmt: skip
        elif name in NUMBERS:
            nonzero = name == "image_std"
            _require(_leaves(name, value), lambda x, nonzero=nonzero: _is_number(x) and not (nonzero and x == 0),
                     "a number other than 0" if nonzero else "a number", path)  # fmt: skip


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    """The entries of a table or list of sides by their paths, or the value itself."""
    if isinstance(value, Mapping):
        return [(f"{name}.{key}", each) for key, each in value.items() if each is not None]
    if isinstance(value, list | tuple):
        return [(f"{name}[{index}]", each) for index, each in enumerate(value)]
    return [(name, value)]


def _require(each: list[tuple[str, Any]], fits: Check, kind: str, path: Path) -> None:
    for name, value in each:
        if not fits(value):
            raise ConfigError(f"{path}: {name:.80}: expected {kind}, found {shown(value)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6
