"""int8 weights for faster single-token steps on a CPU.

    quantise_linears(model.blocks)       every plain Linear below becomes an Int8Linear; inference only

Each row of a weight is stored as int8 with one bfloat16 scale (symmetric, largest value -> 127).  A few rows of
input (decoding) are cast to bfloat16 and multiplied by torch's int8 kernel, so a quarter of the bytes is read;
many rows (prefill) use the weight expanded to the input's dtype, which costs less than it saves there.
Measured for SmolLM2-135M on one AMD Zen 4 core (512-bit, bfloat16 instructions): 1.6 times the tokens a second
of float32, prefill of 64 tokens 1.25 times as long; on 64 tokens of text the mean divergence from float32 is
0.005 nats and 97 % of the likeliest tokens agree.
Traps: the result is rounded to bfloat16 on the short path; weights lose about 0.4 % of a row's largest value, so a
quantised model answers almost, not exactly, like the one it came from; it cannot be trained or exported.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from polymodal.nn.linear import Linear, linear

_FEW_ROWS = 16
_STEP = 16  # the kernel reads so many inputs at once and past the end of other widths: a crash


class Int8Linear(nn.Module):
    """``[..., in] -> [..., out]`` with int8 weights. Buffers: weight int8, scale bfloat16 [out], bias or None."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> "Int8Linear":
        """Quantise ``weight [out, in]``; of one on the meta device only the places of the numbers are made."""
        bias = None if bias is None else bias.detach().clone()
        if not weight.is_meta:
            return cls(*quantise_rows(weight), bias)
        places = torch.empty(weight.shape, dtype=torch.int8, device="meta")
        return cls(places, torch.empty(weight.shape[0], dtype=torch.bfloat16, device="meta"), bias)

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if x.device.type == "cpu" and 0 < rows <= _FEW_ROWS and x.shape[-1] % _STEP == 0:
            flat = x.reshape(rows, -1).to(torch.bfloat16)
            out = torch._weight_int8pack_mm(flat, self.weight, self.scale.to(torch.bfloat16))
            y = out.to(x.dtype).view(*x.shape[:-1], -1)
        else:
            y = linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``weight [out, in] -> int8 [out, in], bfloat16 scales [out]``, each row alone; a row of zeros stays zero."""
    weight = weight.detach().float()
    # The kernel takes bfloat16 scales: rounded before dividing by them, they cost no accuracy.
    scale = (weight.abs().amax(1) / 127).to(torch.bfloat16)
    steps = weight / torch.where(scale > 0, scale, 1.0).float()[:, None]
    return steps.round_().clamp_(-127, 127).to(torch.int8), scale


def quantise_linears(module: nn.Module) -> int:
    """Replace every plain Linear below ``module`` in place; how many.  Merge LoRA before, and fuse before.

    A Linear whose weight is an embedding's too stays.  On the meta device the places of the int8 numbers are made,
    which weights/load.py then fills from those of the Linear.
    """
    found = list(_plain_linears(module))
    for parent, leaf, part in found:
        setattr(parent, leaf, Int8Linear.of(part.weight, part.bias))
    return len(found)


def _plain_linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, Linear]]:
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for parent in module.modules():
        for leaf, part in parent.named_children():
            if type(part) is Linear and id(part.weight) not in tables:
                yield parent, leaf, part


def is_quantised(module: nn.Module) -> bool:
    """Whether some linear below ``module`` has int8 weights."""
    return any(isinstance(part, Int8Linear) for part in module.modules())
