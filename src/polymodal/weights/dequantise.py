"""Packed values of quantised checkpoints -> float32 weights [out, in], one function for each arithmetic.

    scaled          q * s, (q - z) * s              int8, float8; scales for all, a row, a group of columns, a block
    absmax_int8     q * s / 127                     bitsandbytes, 8 bits
    codebook        c[q] * s                        bitsandbytes, 4 bits (nf4, fp4)
    gptq, awq       (q - z) * s                     words of 32 bits along the inputs, or along the outputs in an order
    packed_int      (q - 2^(b-1) - z) * s           compressed-tensors, words of 32 bits along the inputs

Sources: the papers LLM.int8 (arXiv 2208.07339), QLoRA (2305.14314), GPTQ (2210.17323), AWQ (2306.00978), DeepSeek-V3
(2412.19437); the layouts of files are those of bitsandbytes, AutoGPTQ, AutoAWQ and compressed-tensors.

All work goes through pieces of rows that fit a cache, which is several times faster than whole matrices at a time, and
bytes become numbers by tables, as one byte always holds whole numbers.

Traps: GPTQ's first format stores zero points minus one, and one that was 0 wraps round; AWQ keeps columns in the order
0 2 4 6 1 3 5 7 inside a word; bitsandbytes writes the first of two numbers into the HIGH half of a byte, the others
into the low one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polymodal.errors import ConfigError

_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns each number of a word is, lowest bits first."""
_PIECE = 1 << 18
_WIDE = {1: torch.float32, 2: torch.float64, 4: torch.complex128}
Block = Sequence[int]


def words_table(bits: int, words: torch.dtype = torch.int32) -> Tensor:
    """What a byte stands for: float32 [256, 8 / bits], lowest bits first.  Raises ConfigError unless bits are 2, 4 or
    8 and the words int32."""
    if bits not in (2, 4, 8) or words != torch.int32:
        raise ConfigError(f"numbers of {bits} bits in {words} are not supported; expected 2, 4 or 8 in int32")
    bytes_ = torch.arange(256)
    return torch.stack([(bytes_ >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], 1).float()


def unpack(words: Tensor, table: Tensor) -> Tensor:
    """Any dtype [..., n], whose bytes count -> float32 [..., n * bytes * numbers of a byte]."""
    parts = words.contiguous().view(torch.uint8)
    # A byte's numbers are fetched as one: that is a plain lookup of scalars, the fastest there is.
    wide = table.view(_WIDE[table.shape[1]]).flatten()
    return torch.take(wide, parts.long()).view(torch.float32)


def _grid(
    scale: Tensor, shape: Sequence[int], block: Block | None, columns: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Scales as float32 [out or 1, groups], and the group of every column where groups are no runs of equal length."""
    rows, width = shape
    scale = scale.float()
    if scale.numel() == 1:
        return scale.reshape(1, 1), None
    if scale.dim() == 1:
        scale = scale[:, None]
    down, across = block if block is not None else (1, 0)
    if scale.dim() != 2 or len(scale) != math.ceil(rows / down):
        raise ConfigError(f"scales of shape {tuple(scale.shape)} do not cover a weight of {tuple(shape)}")
    if down > 1:
        scale = scale.repeat_interleave(min(down, rows), 0)[:rows]
    groups = scale.shape[1]
    if across and (across * groups < width or across * groups >= width + across):
        raise ConfigError(f"{groups} blocks of {across} columns do not cover {width}")
    if columns is None and across and across * groups != width:
        columns = torch.arange(width) // across
    if columns is None:
        if width % groups:
            raise ConfigError(f"{groups} groups of scales do not divide {width} columns")
        return scale, None
    if width % groups == 0 and torch.equal(columns.long(), torch.arange(width) // (width // groups)):
        return scale, None
    return scale, columns.long()


def _scaled(
    shape: Sequence[int],
    rows_of: Callable[[slice], Tensor],
    scale: Tensor,
    zero: Tensor | None = None,
    block: Block | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """float32 of `shape` from rows of numbers, less their zero points, times their scales."""
    steps = [(torch.Tensor.mul_, *_grid(scale, shape, block, columns))]
    if zero is not None:
        steps.insert(0, (torch.Tensor.sub_, *_grid(zero, shape, block, columns)))
    out = torch.empty(tuple(shape))
    count = max(8, _PIECE // shape[1] // 8 * 8)
    for first in range(0, shape[0], count):
        part = slice(first, min(first + count, shape[0]))
        value = out[part]
        value.copy_(rows_of(part))
        for change, factors, groups in steps:
            mine = factors if len(factors) == 1 else factors[part]
            if groups is not None:
                change(value, mine[:, groups])
            else:
                change(value.view(len(value), factors.shape[1], -1), mine[..., None])
    return out


def scaled(
    weight: Tensor, scale: Tensor, zero: Tensor | None = None, block: Block | None = None, columns: Tensor | None = None
) -> Tensor:
    """Numbers of any type [out, in], less their zero points if there are some, times their scales.

    scale, zero: one number, [out], [out, 1], [out, groups], or [row blocks, column blocks] with the sides of a `block`.
    columns: int [in], the group of every column, where groups are no runs of neighbours.
    Raises ConfigError for scales that do not cover the weight.
    """
    return _scaled(weight.shape, lambda part: weight[part], scale, zero, block, columns)


def absmax_int8(weight: Tensor, largest: Tensor) -> Tensor:
    """int8 [out, in] and the largest value of every row [out]."""
    return scaled(weight, largest.float() / 127)


def codebook(packed: Tensor, scale: Tensor, codes: Tensor, *, shape: Sequence[int], size: int) -> Tensor:
    """Two numbers a byte, each an index into 16 `codes`, times the scale of its run of `size` numbers.

    packed: any dtype, its bytes count; scale float [numbers / size].
    """
    parts = packed.contiguous().reshape(-1).view(torch.uint8)
    count = math.prod(shape)
    runs = math.ceil(count / size)
    if size % 2 or len(scale) != runs or len(codes) != 16 or not 0 <= 2 * len(parts) - count < 2 * size:
        raise ConfigError(f"{len(parts)} bytes and {len(scale)} scales do not hold {count} numbers in runs of {size}")
    whole = torch.nn.functional.pad(parts, (0, runs * size // 2 - len(parts))).view(runs, size // 2)
    bytes_ = torch.arange(256)
    table = codes.float()[torch.stack((bytes_ >> 4, bytes_ & 15), 1)]
    values = _scaled((runs, size), lambda part: unpack(whole[part], table), scale)
    return values.view(-1)[:count].view(tuple(shape))


def nested_scale(indices: Tensor, scale: Tensor, codes: Tensor, size: int, offset: float) -> Tensor:
    """Scales that are quantised themselves: uint8 indices into 256 `codes`, a scale for each run of `size`, and what
    was taken off all of them."""
    values = codes.float()[indices.flatten().int()]
    if len(scale) != math.ceil(len(values) / size):
        raise ConfigError(f"{len(scale)} scales do not cover {len(values)} in runs of {size}")
    return values * scale.float().repeat_interleave(size)[: len(values)] + offset


def gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, columns: Tensor | None = None, *, bits: int, shifted: bool
) -> Tensor:
    """qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32], scales [groups, out]; columns
    (g_idx): int [in], the group of every input, None for runs of neighbours.  shifted: zero points are stored minus one
    (the first format)."""
    table, out = words_table(bits, qweight.dtype), qweight.shape[1]
    zero = unpack(qzeros, table)[:, :out]
    if shifted:
        zero = (zero + 1) % 2**bits
    shape = out, len(qweight) * 32 // bits
    return _scaled(shape, lambda part: unpack(qweight[:, part].t(), table), scales.t(), zero.t(), columns=columns)


def awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
    """qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales [groups, out]; 4 bits."""

    def rows(words: Tensor, part: slice) -> Tensor:
        mine = words[:, part.start // 8 : part.stop // 8].t().contiguous()
        found = mine.new_empty(len(mine), 8, len(words))
        for position, column in enumerate(_AWQ_COLUMNS):
            found[:, column] = (mine >> (4 * position)) & 15
        return found.flatten(0, 1)

    out = 8 * qweight.shape[1]
    zero = rows(qzeros, slice(0, out))
    return _scaled((out, len(qweight)), lambda part: rows(qweight, part), scales.t(), zero)


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
    table = words_table(bits, packed.dtype) - 2 ** (bits - 1)
    if zero is not None and zero.dtype == torch.int32:
        zero = unpack(zero.t(), table).t()[:rows]
    return _scaled(shape, lambda part: unpack(packed[part], table)[:, :width], scale, zero, columns=columns)
