"""Building a module that is about to be filled: without memory, and initial values only where no file has any.

    build_empty(build)            on the meta device: names, shapes and ties; buffers that are computed (nn/computed.py)
                                  are real
    nothing_drawn()               a context that does the same for a module of another library
    first_values(build, names)    what a fresh build gives those parameters, without memory for the others

Random initialisation is most of the time that building takes, and most of its values are never used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from polymodal.weights.build_limits import BuildLimits

Built = TypeVar("Built", bound=nn.Module)

RANDOM = frozenset(
    {Tensor.normal_, Tensor.uniform_}
    | {getattr(torch.nn.init, f"{name}_") for name in ("normal", "uniform", "trunc_normal", "kaiming_uniform",
                                                       "kaiming_normal", "xavier_uniform", "xavier_normal")}
)  # fmt: skip
SCALES = frozenset({Tensor.mul, Tensor.div, Tensor.__mul__, Tensor.__truediv__})


class _RandomCalls(TorchFunctionMode):
    """Counts the calls that fill a tensor with random numbers, and makes only those whose count is in `kept`.

    limits: of what the others make.
    """

    def __init__(self, kept: Collection[int] = (), limits: BuildLimits | None = None) -> None:
        super().__init__()
        self.kept = kept
        self.limits = limits
        self.tensors: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func not in RANDOM:
            if self.limits is None:
                return func(*args, **given)
            self.limits.before(func, args, given)
            # For both torch would import sympy (seconds) to say what the shape is.
            if func is torch.randn:
                func = torch.empty
            elif func in SCALES and args[0].is_meta and isinstance(args[1], int | float):
                func, args = Tensor.clone, args[:1]
            made = func(*args, **given)
            self.limits.after(func, made)
            return made
        tensor = args[0] if args else given["tensor"]
        self.tensors.append(tensor)
        return func(*args, **given) if len(self.tensors) - 1 in self.kept else tensor


def build_empty(build: Callable[[], Built]) -> Built:
    """The module on the meta device; ConfigError for one larger than any model (build_limits.py)."""
    with torch.device("meta"), _RandomCalls(limits=BuildLimits()):
        return build()


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Everything that is built lies on the meta device, and no random number is drawn for it.  For code of others."""
    with torch.device("meta"), _RandomCalls():
        yield


def first_values(build: Callable[[], nn.Module], names: Collection[str]) -> dict[str, Tensor]:
    """The values of parameters and buffers `names` in a module that `build` makes, on the CPU.

    The module is built twice: once to see which random calls initialise these names, and once to make only those calls.
    Everything else it holds is memory that is reserved but never touched.
    """
    if not names:
        return {}
    calls = _RandomCalls()
    with torch.device("meta"), calls:
        state = build().state_dict(keep_vars=True)
    named = {_storage(state[name]) for name in names}
    kept = {i for i, tensor in enumerate(calls.tensors) if _storage(tensor) in named}
    with torch.device("cpu"), _RandomCalls(kept):
        state = build().state_dict()
    return {name: state[name].clone() for name in names}


def _storage(tensor: Tensor) -> int:
    """The same for a parameter, its `.data` and its views, also on the meta device."""
    return tensor.untyped_storage()._cdata
