"""Batches of media that have shapes but no values, joined without torch's machinery for symbolic shapes.

torch computes the shape of what `stack`, `cat` and `*_like` make of meta tensors in Python, for which it imports sympy:
seconds, in the first question about a picture.  Within `ShapesOnly()` these shapes are computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ShapesOnly(TorchFunctionMode):
    """A block in which meta tensors are joined by their shapes; all else is as ever, mistakes too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = RULES.get(func)
        shape = None if rule is None or set(kwargs) - {"dim"} else rule(*args, **kwargs)
        if shape is None:
            return func(*args, **kwargs)
        first = args[0] if isinstance(args[0], Tensor) else args[0][0]
        return torch.empty(shape, dtype=first.dtype, device="meta")


def stacked(tensors: Any, dim: Any = 0) -> list[int] | None:
    """The shape of `torch.stack`; None where these are not meta tensors of one shape."""
    if not _alike(tensors) or any(each.shape != tensors[0].shape for each in tensors):
        return None
    shape = list(tensors[0].shape)
    if not isinstance(dim, int) or not -len(shape) - 1 <= dim <= len(shape):
        return None
    shape.insert(dim if dim >= 0 else dim + len(shape) + 1, len(tensors))
    return shape


def joined(tensors: Any, dim: Any = 0) -> list[int] | None:
    """The shape of `torch.cat`; None where these are not meta tensors that differ in that dimension at most."""
    if not _alike(tensors):
        return None
    shapes = [list(each.shape) for each in tensors]
    if not isinstance(dim, int) or not -len(shapes[0]) <= dim < len(shapes[0]):
        return None
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        return None
    along = sum(shape.pop(dim) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes):
        return None
    shapes[0].insert(dim if dim >= 0 else dim + len(shapes[0]) + 1, along)
    return shapes[0]


def same(tensor: Any) -> list[int] | None:
    """The shape of `torch.zeros_like` and its kind."""
    return list(tensor.shape) if isinstance(tensor, Tensor) and tensor.is_meta else None


def _alike(tensors: Any) -> bool:
    """Whether these are meta tensors of one dtype, one at least."""
    if not isinstance(tensors, Sequence) or isinstance(tensors, Tensor) or not tensors:
        return False
    return all(isinstance(each, Tensor) and each.is_meta and each.dtype == tensors[0].dtype for each in tensors)


RULES: dict[Any, Callable[..., list[int] | None]] = {
    torch.stack: stacked,
    torch.cat: joined,
    torch.empty_like: same,
    torch.zeros_like: same,
    torch.ones_like: same,
}
