"""Configs that are broken in one or more places: values of another kind, beyond all limits, missing, renamed, nested.

broken(value, rng) -> a copy with one to three changes, each at a place drawn from the whole tree
damaged(text, rng) -> a JSON text that is none any more, or that no reader should walk
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

HUGE = (10**5, 10**6, 10**9, 2**31, 2**63, 10**30, 1e9, 1e308, 10**400 - 1)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 0.0, 0.5, -0.5, 1e-300, *HUGE, "", "abc", "64", "a\0b", "../x", "/dev/zero",
    "x" * 5000, "\u202e[bold]\x1b[31m", [], [[]], [None], [0], ["a"], [1, 2, 3], [-1, "x"], {}, {"": ""},
    {"a": {"b": []}}, {"type": "linear"}, {"model_type": 5}, "[" * 50,
)  # fmt: skip
WORDS = ("model_type", "architectures", "hidden_size", "num_hidden_layers", "vocab_size", "vision_config", "id2label",
         "text_config", "quantization_config", "rope_scaling", "auto_map", "tie_word_embeddings", "num_labels",
         "torch_dtype", "size", "eos_token_id", "chat_template", "extra_special_tokens")  # fmt: skip
Place = tuple[Any, Any]  # a table or list, and the key or index in it


def places(value: Any) -> Iterator[Place]:
    """Every place of a tree."""
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])


def broken(value: Any, rng: random.Random) -> Any:
    """A copy with one to three changes."""
    found = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        all_places = list(places(found))
        if not all_places:
            return rng.choice(ODD)
        holder, key = rng.choice(all_places)
        rng.choice(CHANGES)(holder, key, rng)
    return found


def _replace(holder: Any, key: Any, rng: random.Random) -> None:
    holder[key] = copy.deepcopy(rng.choice(ODD))


def _grow(holder: Any, key: Any, rng: random.Random) -> None:
    """A number far from what it was, a text or list much longer."""
    old = holder[key]
    if isinstance(old, bool) or old is None:
        holder[key] = rng.choice(HUGE)
    elif isinstance(old, int | float):
        holder[key] = rng.choice((-old, old + 1, old * 2, old * 1000, old // 3, 0.37, str(old), [old, old], *HUGE))
    elif isinstance(old, str):
        holder[key] = old * rng.choice((0, 2, 50))
    elif isinstance(old, list):
        holder[key] = old[: len(old) // 2] if rng.random() < 0.5 else old * rng.choice((2, 40))
    else:
        holder[key] = [old]


def _delete(holder: Any, key: Any, rng: random.Random) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder[key]
    if isinstance(holder, dict):
        del holder[key]
        holder[rng.choice((*WORDS, f"{key}_", "", "a\0b"))] = value
    else:
        holder.append(value)


def _add(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(WORDS)] = copy.deepcopy(rng.choice(ODD))
    else:
        holder.insert(0, copy.deepcopy(rng.choice(ODD)))


def _swap(holder: Any, key: Any, rng: random.Random) -> None:
    """The value of another key of the same table, or the table inside itself."""
    other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key] = copy.deepcopy(holder if rng.random() < 0.2 else holder[other])


CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    _replace, _replace, _replace, _grow, _grow, _delete, _rename, _add, _swap,
)  # fmt: skip


def damaged(text: str, rng: random.Random) -> str:
    """A JSON text that is cut, deep, or holds what is no JSON."""
    cut = rng.randrange(len(text) + 1)
    return rng.choice((
        text[:cut], "", "[" * 10_000, '{"a":' * 10_000, text[:cut] + "\0" + text[cut:], text + text, "null", "5", "[]",
        '"abc"', text.replace(":", ": NaN, ", 1), text.replace(":", ": 1e999, ", 1), '{"\\ud800": 1}',
        '{"a": "\\ud800"}',
        text.replace("[", "{"), "\ufeff" + text, json.dumps({"a" * 10_000: 1}), '{"a": ' + "9" * 5000 + "}",
    ))  # fmt: skip
