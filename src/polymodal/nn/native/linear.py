"""Products of few rows with a large weight, by the native library where there is one."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.nn.native.library import library

FEW_ROWS = 16
"""More rows than that are no longer limited by reading weights, and torch is as fast."""
_PLAIN = (Tensor, nn.Parameter)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


class LinearStruct(ctypes.Structure):
    """`Linear` of kernels.c."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("scale_is_bfloat16", ctypes.c_int64),
    )


def linear_struct(weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> LinearStruct:
    """Addresses only: the tensors must outlive it."""
    pointers = (None if each is None else each.data_ptr() for each in (weight, scale, bias))
    return LinearStruct(*pointers, *weight.shape, int(scale is not None and scale.dtype == torch.bfloat16))


def is_fitting(weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> bool:
    """Whether the library reads these: float32, or int8 with a float32 or bfloat16 scale a row; the bias float32."""
    return (
        _is_plain(weight, torch.float32 if scale is None else torch.int8)
        and (scale is None or any(_is_plain(scale, dtype) for dtype in (torch.float32, torch.bfloat16)))
        and (bias is None or _is_plain(bias, torch.float32))
    )


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    return type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.dtype == dtype and tensor.is_contiguous()


def is_quiet() -> bool:
    """Whether nobody watches operators: autograd, autocast, a compiler, a tracer, a dispatch mode."""
    return not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or _modes()
    )


def few_rows(x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor | None:
    """`x [..., in] @ weight [out, in].T`, or None where torch has to do it; see `is_fitting`."""
    if not (0 < x.numel() <= FEW_ROWS * x.shape[-1] and x.dtype == torch.float32 and is_quiet()):
        return None
    if type(x) not in _PLAIN or x.device.type != "cpu" or not is_fitting(weight, scale, bias):
        return None
    found = library()
    return None if found is None else call(found, x, weight, scale, bias)


def call(found: Any, x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The product itself."""
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    struct = linear_struct(weight, scale, bias)
    rows = x.numel() // x.shape[-1]
    found.pm_linear(ctypes.byref(struct), x.data_ptr(), y.data_ptr(), rows, torch.get_num_threads())
    return y
