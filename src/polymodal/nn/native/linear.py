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
        ("bits", ctypes.c_int64),
    )


def linear_struct(weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> LinearStruct:
    """Addresses only: the tensors must outlive it."""
    pointers = (None if each is None else each.data_ptr() for each in (weight, scale, bias))
    bits = 32 if scale is None else 8 if weight.dtype == torch.int8 else 4
    return LinearStruct(*pointers, *shape_of(weight), int(scale is not None and scale.dtype == torch.bfloat16), bits)


def shape_of(weight: Tensor) -> tuple[int, int]:
    """(out, in); int4 weights are kept in blocks of 16 outputs and groups of 32 inputs."""
    out, inner = weight.shape[:2]
    return (out, inner) if weight.dim() == 2 else (16 * out, 32 * inner)


def is_fitting(weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> bool:
    """Whether the library reads these, the bias being float32.

    weight: float32, or int8 or int4 (as nn/int4.py keeps it) with float32 or bfloat16 scales.
    """
    if bias is not None and not _is_plain(bias, torch.float32):
        return False
    if scale is None:
        return weight.dim() == 2 and _is_plain(weight, torch.float32)
    stored = torch.int8 if weight.dim() == 2 else torch.uint8
    scales = (torch.float32, torch.bfloat16)
    return _is_plain(weight, stored) and any(_is_plain(scale, dtype) for dtype in scales)


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


def call(
    found: Any, x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor | None:
    """The product itself; None where there is no memory for it."""
    x, struct = x.contiguous(), linear_struct(weight, scale, bias)
    y = x.new_empty(*x.shape[:-1], struct.out)
    rows = x.numel() // x.shape[-1]
    failed = found.pm_linear(ctypes.byref(struct), x.data_ptr(), y.data_ptr(), rows, torch.get_num_threads())
    return None if failed else y
