"""What metrics read from a record of the data and from a prediction: numbers, words, texts; told apart by name.

    given(record, "box")                      the field; ConfigError names it and the fields there are
    number(value, "label")                    one finite number
    numbers(value, "box", 4)                  four finite numbers, float64 [4]
    vector(value, "source")                   one or more finite numbers, float64 [N]
    text(value, "label")                      a text
    texts(value, "answers", key="answer")     one or more texts, or mappings that hold them under a key
    listed(value, "masks", "masks")           a list of one or more

A mistake of the data is a ConfigError; what a model did not say is None, and each metric says what that counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.fields import shown


def given(record: Mapping[str, Any], field: str) -> Any:
    """The field of a record.  Raises ConfigError where it is missing."""
    if field not in record:
        fields = ", ".join(sorted(map(str, record))) or "none"
        raise ConfigError(f"data row: expected a field {field!r}, found {fields}; add it to every row of the data")
    return record[field]


def is_number(value: Any) -> bool:
    """Whether this is one finite number; True and False are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, what: str) -> float:
    """The number.  Raises ConfigError for all else; `what` is the field's name, or "prediction"."""
    if not is_number(value):
        raise ConfigError(f"{what}: expected a finite number, found {shown(value)}; correct it, or leave the row out")
    return float(value)


def numbers(value: Any, what: str, count: int) -> np.ndarray:
    """Exactly `count` finite numbers, float64.  Raises ConfigError for all else."""
    items = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else None
    if items is None or len(items) != count or not all(map(is_number, items)):
        raise ConfigError(f"{what}: expected a list of {count} finite numbers, found {shown(value)}; correct the row")
    return np.asarray(items, np.float64)


def vector(value: Any, what: str) -> np.ndarray:
    """One or more finite numbers, float64 [N], of a list or array.  Raises ConfigError for all else."""
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ConfigError(f"{what}: expected a list of finite numbers, found {shown(value)}; correct the row")
    return found


def text(value: Any, what: str) -> str:
    """The text.  Raises ConfigError for all else."""
    if not isinstance(value, str):
        raise ConfigError(f"{what}: expected a text, found {shown(value)}; write it in quotes")
    return value


def texts(value: Any, what: str, key: str = "") -> list[str]:
    """The texts of a list; each item is one, or with `key` a mapping that holds it under that name.

    Raises ConfigError when it is no list, empty, or holds anything else.
    """
    kind = f'texts or of {{"{key}": text}}' if key else "texts"
    found = []
    for i, item in enumerate(listed(value, what, kind)):
        each = item.get(key) if key and isinstance(item, Mapping) else item
        if not isinstance(each, str):
            raise ConfigError(f"{what}[{i}]: expected one of a list of {kind}, found {shown(item)}; correct the row")
        found.append(each)
    return found


def listed(value: Any, what: str, kind: str) -> Sequence[Any]:
    """A list of one or more; `kind` says of what.  Raises ConfigError for all else."""
    if not isinstance(value, list | tuple) or not value:
        found = shown(value)
        raise ConfigError(f"{what}: expected a list of {kind}, with at least one, found {found}; correct the row")
    return value
