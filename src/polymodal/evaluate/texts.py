"""What the metrics of texts share: the fields they read, and the edit distance of two sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored


def predicted_text(sample: Scored) -> str:
    """What the model wrote.  Raises ConfigError when the prediction is no text."""
    if not isinstance(sample.prediction, str):
        raise ConfigError(
            f"prediction: expected a text, found {_shown(sample.prediction)}; choose a task whose model writes text"
        )
    return sample.prediction


def reference_texts(record: Mapping[str, Any], field: str, key: str = "") -> list[str]:
    """The texts of a list in `field`; each item is a text, or with `key` a mapping that holds it under that name.

    Raises ConfigError, naming the field, when it is missing, empty or holds anything else.
    """
    items = record.get(field)
    kind = f'texts or of {{"{key}": text}}' if key else "texts"
    if not isinstance(items, list | tuple) or not items:
        raise ConfigError(f"{field}: expected a list of {kind}, with at least one, found {_shown(items)}")
    texts = []
    for i, item in enumerate(items):
        text = item.get(key) if key and isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise ConfigError(f"{field}[{i}]: expected one of a list of {kind}, found {_shown(item)}")
        texts.append(text)
    return texts


def reference_text(record: Mapping[str, Any], field: str) -> str:
    """The text in `field`.  Raises ConfigError, naming the field, when there is none."""
    text = record.get(field)
    if not isinstance(text, str):
        raise ConfigError(f"{field}: expected a text, found {_shown(text)}")
    return text


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Insertions, deletions and substitutions, at least, that make `one` of `other` (Levenshtein)."""
    row = list(range(len(one) + 1))
    for item in other:
        above, row[0] = row[0], row[0] + 1
        for i, mine in enumerate(one, start=1):
            above, row[i] = row[i], min(above + (mine != item), row[i] + 1, row[i - 1] + 1)
    return row[-1]


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]
