"""What one build of a module may make: its tensors and parameters are counted, computed tables are bounded beforehand.

    build on the meta device: every call of torch -> before(func, ...) -> the call -> after(func, result)

The limits are those of config_limits.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.weights.config_limits import config_limits, how_to_raise

_MAKERS = frozenset(
    getattr(torch, name)
    for name in ("arange", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand", "randint",
                 "randn", "randperm", "tril_indices", "triu_indices", "zeros")
)  # fmt: skip
_SUSPECT = 1 << 24  # values that a call may make without being looked at more closely


class BuildLimits:
    """Counts what one build makes.  tensors, values: made on the meta device so far."""

    def __init__(self) -> None:
        self.tensors = self.values = 0
        self._limits = config_limits()

    def before(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Raises ConfigError for a call that would make a table of more real values than the limit `computed`."""
        if func in _MAKERS:
            # Without a device it is the meta device, in which a model is built.
            device = kwargs.get("device")
            real = device is not None and torch.device(device).type != "meta"
        else:
            real = any(map(_is_real, args))
        if not real or math.prod(map(_size, (*args, *kwargs.values()))) <= _SUSPECT:
            return
        if (count := _made(func, args, kwargs)) > self._limits.computed:
            raise ConfigError(
                f"the config has a table of {count:,} values computed, the limit is {self._limits.computed:,}; "
                f"{how_to_raise('computed', count)}"
            )

    def after(self, func: Any, made: Any) -> None:
        """Raises ConfigError when there are more tensors or values than any model has."""
        if func not in _MAKERS or not isinstance(made, Tensor) or not made.is_meta:
            return
        self.tensors += 1
        self.values += made.numel()
        for name, count in (("parameters", self.values), ("tensors", self.tensors)):
            if count > (limit := getattr(self._limits, name)):
                raise ConfigError(
                    f"the config describes a model of more than {limit:,} {name}, the limit; "
                    f"{how_to_raise(name, 10 * limit)}"
                )


def _is_real(value: Any) -> bool:
    """A tensor with memory, or a list (for `cat`, `stack`, `meshgrid`) that begins with one."""
    if isinstance(value, list | tuple):
        return bool(value) and _is_real(value[0])
    return isinstance(value, Tensor) and not value.is_meta


def _size(value: Any) -> int:
    """How large a result an argument can make: the values of a tensor, a whole number, the product of several."""
    if isinstance(value, Tensor):
        return max(value.numel(), 1)
    if isinstance(value, int):
        return max(abs(value), 1)
    if isinstance(value, list | tuple) and len(value) <= 16:
        return math.prod(map(_size, value))
    return 1


def _made(func: Any, args: Any, kwargs: Mapping[str, Any]) -> int:
    """How many values a call gives, found without memory; 0 where that cannot be told."""

    def bare(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to("meta")
        return type(value)(map(bare, value)) if type(value) in (list, tuple) else value

    moved = {name: bare(value) for name, value in kwargs.items()}
    if func in _MAKERS:
        moved["device"] = "meta"
    try:
        found = func(*map(bare, args), **moved)
    except Exception:  # the call itself says what is wrong with it
        return 0
    return found.numel() if isinstance(found, Tensor) else 0
