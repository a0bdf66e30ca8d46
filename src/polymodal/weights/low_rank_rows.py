"""A low-rank change of weights carried through a row of a key table, as the weights themselves are.

    W + scale * L R      L [rows, rank], R [rank, columns];  a linear: L = B, R = A;  an embedding: L = A^T, R = B^T
    rows are moved:      RopeOrder, ResizeRows, Fuse, Split along the first dimension act on L alone
    one source, several targets (q, k, v from one)      every target has its rows of L, and the same R
    several sources, one target                         R stacked, L along a block diagonal, zeros where nothing changes

So `carry(row, ...)` takes an adapter to the module, and `carry(row.inverse(), ...)` takes it back.
Traps: a first `Transpose` is the library's Conv1D, whose adapters are those of a linear; DoRA's magnitude goes with
the rows of a linear, but an embedding's belongs to the columns of the whole table, which cannot be cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.lora import LowRank
from polymodal.weights.joins import Agree, Copy, Fuse, Same, Split
from polymodal.weights.operations import Cast, Operation, ResizeRows, RopeOrder, Transpose
from polymodal.weights.rows import Row

Shape = Sequence[int]


def row_of_linears(row: Row) -> Row:
    """The row as it moves the rows of linears.  Raises WeightsError for one that does something else to them."""
    before = row.before
    if len(row.sources) == 1 and before and before[0][:1] and isinstance(before[0][0], Transpose):
        before = (before[0][1:],)
    row = replace(row, before=before)
    along = row.join.dim if isinstance(row.join, Fuse | Split) else 0
    operations: list[Operation] = [op for each in (*row.before, *row.after) for op in each]
    odd = [type(op).__name__ for op in operations if not isinstance(op, RopeOrder | ResizeRows | Cast)]
    if not isinstance(row.join, Same | Fuse | Split | Copy | Agree) or along != 0:
        odd.append(type(row.join).__name__)
    if odd:
        raise WeightsError(f"an adapter cannot go through {odd[0]} of the row {row}")
    return row


def carry(row: Row, changes: Sequence[LowRank | None], shapes: Sequence[Shape], embedding: bool) -> list[LowRank]:
    """The changes of a row's sources (None: unchanged) as changes of its targets.

    shapes: of the sources' weights, [rows, columns].  Raises WeightsError for a row that does more than move rows, and
    for what has no equal on the other side.
    """
    row = row_of_linears(row)
    known = [change for change in changes if change is not None]
    lefts, right, scale = _joined(changes, shapes, embedding)
    try:
        moved = row.convert(lefts)
        magnitudes = _magnitudes(row, changes, embedding)
    except (ConfigError, RuntimeError) as error:
        raise WeightsError(f"an adapter does not fit the row {row}: {str(error).splitlines()[0]}") from error
    found = []
    for left, magnitude in zip(moved, magnitudes, strict=True):
        a, b = (left.T, right.T) if embedding else (right, left)
        found.append(LowRank(a=a, b=b, scale=scale, magnitude=magnitude, dropout=known[0].dropout))
    return found


def trimmed(change: LowRank) -> LowRank:
    """Without the ranks that change nothing; all of them while none does (a fresh adapter)."""
    used = (change.a != 0).any(1) & (change.b != 0).any(0)
    if not used.any() or used.all():
        return change
    return replace(change, a=change.a[used], b=change.b[:, used])


def _joined(
    changes: Sequence[LowRank | None], shapes: Sequence[Shape], embedding: bool
) -> tuple[list[Tensor], Tensor, float]:
    """L of every source, the R that they share, one scale."""
    known = [(change.a.T, change.b.T) if embedding else (change.b, change.a) for change in changes if change]
    scales = [change.scale for change in changes if change]
    scale = scales[0] if len(set(scales)) == 1 else 1.0
    # Cut from one adapter before, and alike since: it is one again.
    if len(known) == len(changes) and len(set(scales)) == 1:
        first = known[0][1]
        if all(right.shape == first.shape and torch.equal(right, first) for _, right in known):
            return [left for left, _ in known], first, scale
    lefts: list[Tensor] = []
    rank, start, at = sum(left.shape[1] for left, _ in known), 0, 0
    for change, shape in zip(changes, shapes, strict=True):
        left = known[0][0].new_zeros(shape[0], rank)
        if change is not None:
            own = known[at][0]
            left[:, start : start + own.shape[1]] = own * (change.scale / scale)
            start, at = start + own.shape[1], at + 1
        lefts.append(left)
    return lefts, torch.cat([right for _, right in known]), scale


def _magnitudes(row: Row, changes: Sequence[LowRank | None], embedding: bool) -> list[Tensor | None]:
    """DoRA's magnitudes of the targets; None for each where the sources have none."""
    found = [change.magnitude for change in changes if change is not None and change.magnitude is not None]
    if not found:
        return [None] * len(row.targets)
    if embedding and (len(row.sources), len(row.targets)) == (1, 1):
        return list(found)
    if embedding or len(found) < len(changes):
        raise WeightsError(f"DoRA cannot go through the row {row}: expected it on linears, and on all of them")
    return [each[:, 0] for each in row.convert([magnitude[:, None] for magnitude in found])]
