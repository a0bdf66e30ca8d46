"""What a config may ask for: bounds on its numbers, and on the module that is built from them.

    config.json -> check_numbers: layers, sides, any number  -> parse -> build under `BuildLimits` (build_limits.py)

A few bytes of JSON can describe a module that never ends being built, or a table that fills memory while it is
computed.  So numbers are bounded before anything is made of them, and what is made is counted while it is made.
Every limit lies above any published model (in brackets); POLYMODAL_CONFIG_LIMITS=10 multiplies all of them by 10.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from polymodal.errors import ConfigError

RAISE = "POLYMODAL_CONFIG_LIMITS"
MAX_LAYERS = 1_000  # of one stack, or of a list of stacks (200 of those read here, 1,000 of DeepNet)
MAX_SIDE = 65_536  # pixels, patches, heads, experts (16,384 pixels, 2,048 experts)
MAX_NUMBER = 1 << 27  # any other whole number: widths, words, positions (10,485,760 positions)
MAX_ID = (1 << 31) - 1  # of a token
MAX_PARAMETERS = 10_000_000_000_000  # of one model (2,000,000,000,000)
MAX_TENSORS = 40_000  # of one model (2,314 of those read here; 70,000 of one with 384 experts a layer)
MAX_PICTURE = 1 << 25  # pixels that a preprocessor may ask for, of one picture (12,845,056)
MAX_COMPUTED = 1 << 28  # values of one table that is computed while a model is built (16,777,216, a causal mask)

_LAYERS = re.compile(r"layers?$|depths?$|blocks?$|^stages$", re.IGNORECASE)
_SIDES = re.compile(
    r"image_size|patch|resolution|window|kernel|stride|heads?$|expert|group|frames?$|mels$", re.IGNORECASE
)
_IDS = re.compile(r"_ids?$|_index$|_idx$|token", re.IGNORECASE)
_FREE = re.compile(r"theta|seed|_base$|max_length$|bytes|^total_|params$", re.IGNORECASE)


NAMES = re.compile(r"2id$|_map$|vocab$|tokens?$")  # tables of labels or tokens and their ids


def raised(limit: int) -> int:
    """A limit, times what the environment says."""
    said = os.environ.get(RAISE, "1")
    try:
        times = float(said)
    except ValueError:
        times = 0.0
    if not 0 < times < math.inf:
        raise ConfigError(f"{RAISE} must be a number above 0, as 10; found {said!r}")
    return int(limit * times)


def check_numbers(config: Mapping[str, Any], what: str) -> None:
    """Raises ConfigError, naming the field, for a number of a config beyond what any model has.

    what: whose config it is, for people.
    """
    smallest = raised(MAX_LAYERS)
    pending: list[tuple[str, str, Any]] = [("", "", config)]
    while pending:
        path, name, value = pending.pop()
        if isinstance(value, Mapping) and NAMES.search(name):
            # Its keys are labels or tokens, which may be called "layers".
            pending += [(f"{path}.{key}", "_id", each) for key, each in value.items()]
        elif isinstance(value, Mapping):
            pending += [(f"{path}.{key}" if path else str(key), str(key), each) for key, each in value.items()]
        elif isinstance(value, list | tuple):
            if _LAYERS.search(name):
                _check(path, name, sum(each for each in value if type(each) is int and each > 0), what)
            pending += [(path, name, each) for each in value]
        elif isinstance(value, int | float) and abs(value) > smallest:
            _check(path, name, value, what)


def _check(path: str, name: str, value: float, what: str) -> None:
    limit, of = MAX_NUMBER, "a number of a config"
    if _LAYERS.search(name):
        limit, of = MAX_LAYERS, "layers"
    elif _SIDES.search(name):
        limit, of = MAX_SIDE, "sides, heads and experts"
    elif _FREE.search(name) or isinstance(value, float):
        return  # it is computed with: no size follows from it
    elif _IDS.search(name):
        limit, of = MAX_ID, "ids"
    if abs(value) > raised(limit):
        shown = f"{value:,}" if abs(value) < 1e15 else f"{float(min(abs(value), 1e300)):.0e}"
        raise ConfigError(f"{what}: {path:.80} is {shown}, the limit for {of} is {raised(limit):,}; "
                          f"for a model of your own set {RAISE}=10")  # fmt: skip
