"""int4 weight-only linears: half the memory of int8, and on a CPU that is limited by reading weights twice its speed.

    Int4Linear.of(weight)     weight [out, in] in groups of 32 inputs: 4-bit steps and one bfloat16 scale a group
                              (4.5 bits a weight), as llama.cpp's Q4_0

Each group's scale is the one of several with the least squared error; the extreme value may take the eighth negative
step.  Few rows on a CPU go through the native library (nn/native/int4.h), which rounds the inputs to 8 bits, group by
group; for more rows, and without the library, the weight is expanded to the input's dtype first.
Traps: a weight is within 1/14 of the largest of its group, about 10 % of its spread: answers are worse than with int8,
so the head is kept int8 (`quantise_linears`).  Expanding costs more than the product: without the native library
decoding is slower than with int8.  It cannot be trained or exported.
"""

import torch
from torch import Tensor, nn

from polymodal.nn.linear import linear
from polymodal.nn.native.linear import few_rows

GROUP = 32  # inputs that share a scale
ROWS = 16  # outputs that lie together
_SCALES = (7.0, 7.5, 8.0, 8.75)  # steps that the largest value of a group may become


class Int4Linear(nn.Module):
    """``[..., in] -> [..., out]``, inference only.

    Buffers: weight uint8 [out / 16, in / 32, 4, 64], laid out as `pack` says; scale bfloat16 [out / 16, in / 32, 16]
    (float32 where the module was brought to that dtype);
    bias [out] or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> "Int4Linear":
        """Quantise ``weight [out, in]``, see `fits`; on the meta device gives buffers on the meta device."""
        out, width = weight.shape
        blocks, groups = out // ROWS, width // GROUP
        made = cls(
            torch.empty(blocks, groups, 4, 64, dtype=torch.uint8, device=weight.device),
            torch.empty(blocks, groups, ROWS, dtype=torch.bfloat16, device=weight.device),
            None if bias is None else bias.detach().clone(),
        )
        if not weight.is_meta:
            made.fill(slice(0, out), weight)
        return made

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return len(self.weight) * ROWS, self.weight.shape[1] * GROUP

    def fill(self, rows: slice, values: Tensor) -> None:
        """Quantise ``values [n, in]`` into these rows; first and n are multiples of 16."""
        blocks = slice(rows.start // ROWS, rows.stop // ROWS)
        self.weight[blocks], self.scale[blocks] = pack(*quantise_groups(values))

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        native = few_rows(x, self.weight, self.scale, self.bias)
        if native is not None:
            return native
        y = linear(x, unpack(self.weight, self.scale).to(x.dtype))
        return y if self.bias is None else y + self.bias.to(x.dtype)


def fits(weight: Tensor) -> bool:
    """Whether a weight ``[out, in]`` divides into blocks of 16 outputs and groups of 32 inputs."""
    return weight.shape[0] % ROWS == 0 and weight.shape[1] % GROUP == 0 and weight.numel() > 0


def quantise_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``[out, in] -> steps uint8 [out, in], 8 for zero, and scales bfloat16 [out, in / 32]``; zeros stay zero."""
    groups = weight.detach().float().unflatten(1, (-1, GROUP))
    # The value that is furthest from zero, with its sign: as a negative step it has one step more.
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    best = scale = error = torch.empty(0)
    for steps in _SCALES:
        tried = (extreme / -steps).to(torch.bfloat16).float()
        rounded = (groups / torch.where(tried == 0, 1.0, tried)).round_().clamp_(-8, 7)
        wrong = (rounded * tried - groups).square_().sum(2, keepdim=True)
        if not error.numel():
            best, scale, error = rounded, tried, wrong
            continue
        nearer = wrong < error
        best, scale = torch.where(nearer, rounded, best), torch.where(nearer, tried, scale)
        error = torch.minimum(wrong, error)
    return (best + 8).to(torch.uint8).flatten(1), scale.squeeze(2).to(torch.bfloat16)


def pack(steps: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """As the kernel reads them: of 16 outputs and 32 inputs, byte ``4 r + b`` of part j holds inputs ``4 j + b`` (low
    half) and ``16 + 4 j + b`` (high half) of output r; the 16 scales beside each other."""
    low, high = steps.view(-1, ROWS, steps.shape[1] // GROUP, 2, 4, 4).unbind(3)
    weight = (low | (high << 4)).permute(0, 2, 3, 1, 4).flatten(3)
    return weight.contiguous(), scale.view(-1, ROWS, scale.shape[1]).transpose(1, 2).contiguous()


def unpack(weight: Tensor, scale: Tensor) -> Tensor:
    """The inverse: float32 ``[out, in]``."""
    blocks, groups = weight.shape[:2]
    parts = weight.view(blocks, groups, 4, ROWS, 4)
    steps = torch.stack((parts & 15, parts >> 4), 2)  # [blocks, groups, half, j, r, b]
    values = (steps.float() - 8).mul_(scale.float()[:, :, None, None, :, None])
    return values.permute(0, 4, 1, 2, 3, 5).reshape(blocks * ROWS, groups * GROUP)
