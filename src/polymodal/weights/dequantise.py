"""Packed numbers of quantised checkpoints -> float32 weights [out, in], one function for each arithmetic.

    scaled          q * s, (q - z) * s              int8, float8; scales for all, a row, a group of columns, a block
    absmax_int8     q * s / 127                     bitsandbytes, 8 bits
    codebook        c[q] * s                        bitsandbytes, 4 bits (nf4, fp4)
    gptq, awq       (q - z) * s                     words of 32 bits along the inputs, or along the outputs in an order
    packed_int      (q - 2^(b-1) - z) * s           compressed-tensors, words of 32 bits along the inputs

Sources: the papers LLM.int8 (arXiv 2208.07339), QLoRA (2305.14314), GPTQ (2210.17323), AWQ (2306.00978), DeepSeek-V3
(2412.19437); the layouts of files are those of bitsandbytes, AutoGPTQ, AutoAWQ and compressed-tensors.

Traps: GPTQ's first format stores zero points minus one, and one that was 0 wraps round; AWQ keeps columns in the order
0 2 4 6 1 3 5 7 inside a word; bitsandbytes writes the first of two numbers into the HIGH half of a byte, the others
into the low one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from polymodal.errors import ConfigError

_AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word each of eight neighbouring columns lies."""


def unpack(words: Tensor, bits: int) -> Tensor:
    """int32 [..., n] -> the unsigned numbers in them, lowest bits first: uint8 [..., n * 32 / bits]; bits 2, 4 or 8."""
    if bits not in (2, 4, 8) or words.dtype != torch.int32:
        raise ConfigError(f"numbers of {bits} bits in {words.dtype} are not supported; expected 2, 4 or 8 in int32")
    parts = words.contiguous().view(torch.uint8)
    if bits == 8:
        return parts
    each = [(parts >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.stack(each, -1).flatten(-2)


def spread(
    scale: Tensor, shape: Sequence[int], block: Sequence[int] | None = None, columns: Tensor | None = None
) -> Tensor:
    """Scales (or zero points) as something that broadcasts to a weight of `shape` [out, in].

    scale: one number, [out], [out, 1], [out, groups], or [row blocks, column blocks] with the sides of a `block`.
    columns: int [in], the group of every column, where groups are no runs of neighbours.
    Raises ConfigError for scales that do not cover the weight.
    """
    rows, width = shape
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.dim() == 1:
        scale = scale[:, None]
    down, across = block if block is not None else (1, 0)
    if len(scale) != math.ceil(rows / down) or scale.dim() != 2:
        raise ConfigError(f"scales of shape {tuple(scale.shape)} do not cover a weight of {tuple(shape)}")
    if down > 1:
        scale = scale.repeat_interleave(down, 0)[:rows]
    groups = scale.shape[1]
    if columns is not None:
        return scale[:, columns.long()]
    if groups == 1 and across == 0:
        return scale
    if across == 0 and width % groups:
        raise ConfigError(f"{groups} groups of scales do not divide {width} columns")
    return scale.repeat_interleave(across or width // groups, 1)[:, :width]


def scaled(
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    block: Sequence[int] | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """Numbers of any type [out, in] times their scales, less their zero points if there are some."""
    value = weight.float()
    if zero is not None:
        value = value - spread(zero.float(), value.shape, block, columns)
    return value.mul_(spread(scale.float(), value.shape, block, columns))


def absmax_int8(weight: Tensor, largest: Tensor) -> Tensor:
    """int8 [out, in] and the largest value of every row [out]."""
    return scaled(weight, largest.float() / 127)


def codebook(packed: Tensor, scale: Tensor, codes: Tensor, *, shape: Sequence[int], size: int) -> Tensor:
    """Two numbers a byte, each a place among 16 `codes`, times the scale of its run of `size` numbers.

    packed: any dtype, its bytes count; scale float [numbers / size].
    """
    parts = packed.contiguous().reshape(-1).view(torch.uint8)
    count = math.prod(shape)
    places = torch.stack((parts >> 4, parts & 15), -1).flatten()[:count]
    values = codes.float()[places.int()]
    if len(values) != count or len(scale) != math.ceil(count / size):
        raise ConfigError(f"{len(parts)} bytes and {len(scale)} scales do not hold {count} numbers")
    whole = torch.nn.functional.pad(values, (0, len(scale) * size - count)).view(len(scale), size)
    return (whole * scale.float()[:, None]).flatten()[:count].view(tuple(shape))


def nested_scale(places: Tensor, scale: Tensor, codes: Tensor, size: int, offset: float) -> Tensor:
    """Scales that are quantised themselves: uint8 places among 256 `codes`, a scale for each run of `size`, and what
    was taken off all of them."""
    values = codes.float()[places.flatten().int()]
    return values * scale.float().repeat_interleave(size)[: len(values)] + offset


def gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, columns: Tensor | None = None, *, bits: int, shifted: bool
) -> Tensor:
    """qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32], scales [groups, out]; columns
    (g_idx): int [in], the group of every input, None for runs of neighbours.  shifted: zero points are stored minus one
    (the first format)."""
    weight = unpack(qweight.t(), bits)
    zero = unpack(qzeros, bits)[:, : weight.shape[0]]
    if shifted:
        zero = (zero + 1) & (2**bits - 1)
    return scaled(weight, scales.t(), zero.t(), columns=columns)


def awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
    """qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales [groups, out]; 4 bits."""
    return scaled(_ordered(qweight).t(), scales.t(), _ordered(qzeros).t())


def _ordered(words: Tensor) -> Tensor:
    numbers = unpack(words, 4).view(len(words), -1, 8)
    return numbers[..., list(_AWQ_COLUMNS)].flatten(1)


def packed_int(
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    columns: Tensor | None = None,
    *,
    bits: int,
    shape: Sequence[int],
) -> Tensor:
    """packed int32 [out, ceil(in * bits / 32)] of numbers that were moved up by half of their range; zero: zero points
    packed in the same way, but along the outputs [ceil(out * bits / 32), groups]."""
    rows, width = shape
    half = 2 ** (bits - 1)
    weight = unpack(packed, bits)[:, :width].to(torch.int16) - half
    if zero is not None and zero.dtype == torch.int32:
        zero = unpack(zero.t(), bits).t()[:rows].to(torch.int16) - half
    return scaled(weight, scale, zero, columns=columns)
