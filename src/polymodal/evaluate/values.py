"""Values out of the fields of a data row or of a prediction, for metrics: numbers, words, lists; told apart by name.

    given(sample, "box")                      the field of the record; ConfigError names it and the fields there are
    numbers(value, "box", 4)                  four finite numbers, float64 [4]
    vector(value, "source")                   one or more finite numbers, float64 [N]
    number(value, "label")                    one finite number
    word(value, "label")                      text

A mistake of the data is a ConfigError; what a model did not say is None, and each metric says what that counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored
from polymodal.fields import shown


def given(sample: Scored, field: str) -> Any:
    """The field of the sample's record.  Raises ConfigError where it is missing."""
    if field not in sample.record:
        fields = ", ".join(sorted(map(str, sample.record))) or "none"
        raise ConfigError(f"data row: expected a field {field!r}, found {fields}; add it to every row of the data")
    return sample.record[field]


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


def word(value: Any, what: str) -> str:
    """The text.  Raises ConfigError for all else."""
    if not isinstance(value, str):
        raise ConfigError(f"{what}: expected a word in quotes, found {shown(value)}; write it as text")
    return value
