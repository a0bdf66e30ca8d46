"""What a config may ask for: bounds on its numbers, and on the module that is built from them.

    config.json -> check_numbers: layers, sides, any number  -> parse -> build under `BuildLimits` (build_limits.py)

A few bytes of JSON can describe a module that never ends being built, or a table that fills memory while it is
computed.  So numbers are bounded before anything is made of them, and what is made is counted while it is made.
Every limit lies above any published model (in brackets); POLYMODAL_CONFIG_LIMITS="layers=2000,
sides=1e6" raises them for models of one's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polymodal.environment import limits_from
from polymodal.errors import ConfigError

VARIABLE = "POLYMODAL_CONFIG_LIMITS"


@dataclass(frozen=True, kw_only=True)
class ConfigLimits:
    """Upper bounds for what one config describes; all are positive.

    layers      of one stack, or of a list of stacks (200 of those read here, 1,000 of DeepNet)
    sides       pixels, patches, heads, experts, features of an item (16,384 pixels, 2,048 experts)
    number      any other whole number: widths, words, positions (10,485,760 positions)
    ids         of a token
    parameters  of one model (2,000,000,000,000)
    tensors     of one model (2,314 of those read here; 70,000 of one with 384 experts a layer)
    picture     pixels that a preprocessor may ask for, of one picture (12,845,056)
    computed    values of one table that is computed while a model is built (16,777,216, a causal mask)
    """

    layers: int = 1_000
    sides: int = 65_536
    number: int = 1 << 27
    ids: int = (1 << 31) - 1
    parameters: int = 10_000_000_000_000
    tensors: int = 40_000
    picture: int = 1 << 25
    computed: int = 1 << 28


_LAYERS = re.compile(r"layers?$|depths?$|blocks?$|^stages$", re.IGNORECASE)
_SIDES = re.compile(
    r"image_size|patch|resolution|window|kernel|stride|heads?$|expert|group|frames?$|mels$|quer(y|ies)|latents?$"
    r"|image_seq|(num|max|n)_\w*tokens?$",  # features of an item: each becomes a token of the prompt
    re.IGNORECASE,
)
_IDS = re.compile(r"_ids?$|_index$|_idx$|token", re.IGNORECASE)
_FREE = re.compile(r"theta|seed|_base$|max_length$|bytes|^total_|params$", re.IGNORECASE)


NAMES = re.compile(r"2id$|_map$|vocab$|tokens?$")  # tables of labels or tokens and their ids


def config_limits() -> ConfigLimits:
    """The defaults, or what POLYMODAL_CONFIG_LIMITS says.  Raises ConfigError."""
    return limits_from(VARIABLE, ConfigLimits())


def how_to_raise(name: str, needed: float) -> str:
    """For the end of a refusal: what lets a model of one's own pass."""
    number = str(math.ceil(needed)) if needed < 1e15 else f"1e{min(len(str(int(needed))), 308)}"
    return f"for a model of your own set {VARIABLE}={name}={number}"


def check_numbers(config: Mapping[str, Any], what: str) -> None:
    """Raises ConfigError, naming the field, for a number of a config beyond what any model has.

    what: whose config it is, for people.
    """
    limits = config_limits()
    smallest = min(limits.layers, limits.sides, limits.number, limits.ids)
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
                _check(path, name, sum(each for each in value if type(each) is int and each > 0), what, limits)
            pending += [(path, name, each) for each in value]
        elif isinstance(value, int | float) and abs(value) > smallest:
            _check(path, name, value, what, limits)


def _check(path: str, name: str, value: float, what: str, limits: ConfigLimits) -> None:
    bound, of = "number", "a number of a config"
    if _LAYERS.search(name):
        bound, of = "layers", "layers"
    elif _SIDES.search(name):
        bound, of = "sides", "sides, heads and experts"
    elif _FREE.search(name) or isinstance(value, float):
        return  # it is computed with: no size follows from it
    elif _IDS.search(name):
        bound, of = "ids", "ids"
    if abs(value) > (limit := getattr(limits, bound)):
        shown = f"{value:,}" if abs(value) < 1e15 else f"{float(min(abs(value), 1e300)):.0e}"
        raise ConfigError(f"{what}: {path:.80} is {shown}, the limit for {of} is {limit:,}; "
                          f"{how_to_raise(bound, abs(value))}")  # fmt: skip
