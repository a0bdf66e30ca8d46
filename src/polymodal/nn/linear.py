"""Linear layers, the protocol of their configs, and a faster CPU kernel for them.

Every linear inside a block is called as ``f(x, token_types)`` so that a routed or low-rank linear can replace
it; the plain one ignores ``token_types``.

``linear`` is ``F.linear`` with a better choice of kernel for float32 on a CPU.  Measured on two cores of an
AMD Zen 4 with torch 2.13: the BLAS behind ``F.linear`` reads weights at 16 GB/s for one row, on one core
regardless of the number of threads; the same product as a batch of row blocks reads 30 GB/s on one core and 46
on two (the memory bandwidth), and oneDNN is 2.2 times as fast for many rows.  Results differ from ``F.linear``
by rounding only.  bfloat16, accelerators and small products use ``F.linear``.
Few rows go through the native library where there is one (nn/native), which reads weights still faster.
Trap: the oneDNN operator is the one torch's compiler emits, not a documented function; without it ``F.linear``
is used.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.nn.native.linear import few_rows
from polymodal.nn.norm import LayerNormConfig, NormConfig

_BLOCKS = 32
_MIN_WEIGHTS = 1 << 17  # for smaller weights the extra dispatch costs more than it saves
_MIN_BACKWARD_ROWS = 64  # with fewer rows the weight gradient is an outer product, where oneDNN is slow


def _find_onednn() -> Any:
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
        operator(torch.zeros(2, 4), torch.zeros(4, 4), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return None
    return operator


ONEDNN = _find_onednn()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [..., in] @ weight [out, in].T + bias [out]`` -> ``[..., out]``, as ``F.linear``."""
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or weight.numel() < _MIN_WEIGHTS
        or not weight.is_contiguous()
        or type(weight) not in (Tensor, nn.Parameter)  # sharded and wrapped tensors have their own kernels
    ):
        return F.linear(x, weight, bias)
    native = few_rows(x, weight, None, bias)
    if native is not None:
        return native
    if x.numel() == x.shape[-1] and weight.shape[0] % _BLOCKS == 0:
        return _one_row(x, weight, bias)
    if ONEDNN is None or x.numel() == 0 or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        flat = _OneDNNLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
        return flat.view(*x.shape[:-1], weight.shape[0])
    return ONEDNN(x, weight, bias, "none", [], "")


def _one_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out, width = weight.shape
    blocks = weight.view(_BLOCKS, out // _BLOCKS, width)
    # The strides of the column select the kernel: transposed from a row it is fast, viewed as a column six times
    # slower, although the memory layout is the same.
    column = x.reshape(1, 1, width).transpose(1, 2).expand(_BLOCKS, width, 1)
    y = torch.bmm(blocks, column).view(*x.shape[:-1], out)
    return y if bias is None else y + bias


class _OneDNNLinear(torch.autograd.Function):
    """Forward and both products of the backward pass on oneDNN; ``x [N, in]``."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return ONEDNN(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = ONEDNN(grad, weight.t(), None, "none", [], "")
        if ctx.needs_input_grad[1]:
            few = len(x) < _MIN_BACKWARD_ROWS
            grad_weight = grad.t() @ x if few else ONEDNN(grad.t(), x.t(), None, "none", [], "")
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias


class ProjectionConfig(Protocol):
    """Config of a linear: ``build`` returns a module called as ``f(x, token_types)``."""

    def build(self, in_width: int, out_width: int, bias: bool = False) -> nn.Module: ...


class Linear(nn.Linear):
    """``nn.Linear`` that ignores ``token_types``. ``[..., in] -> [..., out]``"""

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A plain linear; ``bias`` overrides that of the enclosing part (Whisper: keys have none)."""

    bias: bool | None = None

    def build(self, in_width: int, out_width: int, bias: bool = False) -> Linear:
        return Linear(in_width, out_width, bias=bias if self.bias is None else self.bias)


@dataclass(frozen=True, kw_only=True)
class NormedLinearConfig:
    """A norm, then a linear: the sub-layer norms of Magneto (arXiv 2210.06423)."""

    norm: NormConfig = field(default_factory=LayerNormConfig)

    def build(self, in_width: int, out_width: int, bias: bool = False) -> "NormedLinear":
        return NormedLinear(self, in_width, out_width, bias)


class NormedLinear(nn.Module):
    """``[..., in] -> [..., out]``"""

    def __init__(self, config: NormedLinearConfig, in_width: int, out_width: int, bias: bool):
        super().__init__()
        self.norm = config.norm.build(in_width)
        self.linear = Linear(in_width, out_width, bias=bias)

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return self.linear(self.norm(x, token_types), token_types)
