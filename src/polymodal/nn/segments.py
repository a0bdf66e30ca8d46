"""Packed rows, which hold several sequences: counts that restart at each sequence.

    segments  [B, T]  1 1 1 2 2 2 2 3 0 0        equal numbers are one sequence; neighbours differ; 0: padding
    counts    [B, T]  1 2 3 4 5 6 7 8 8 8   ->   1 2 3 1 2 3 4 1 0 0          counted_within

Everything runs on the device of the tensors, without synchronisation with the host.
Trap: counts must not decrease from left to right; only then is the running maximum the count at the segment start.
"""

import torch
from torch import Tensor


def segment_starts(segments: Tensor) -> Tensor:
    """Bool [B, T]: the first token of every segment."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def counted_within(counts: Tensor, steps: Tensor, segments: Tensor) -> Tensor:
    """Running counts int [B, T] that restart from 0 at every segment.

    counts: `steps.cumsum(-1)` of steps >= 0 over the whole row; the first step of a segment is included.
    """
    before = (counts - steps).masked_fill(~segment_starts(segments), 0)
    return counts - before.cummax(-1).values


def largest_within(values: Tensor, segments: Tensor) -> Tensor:
    """int [B, T]: maximum of `values` (>= 0) over the segment of each token."""
    index = segment_starts(segments).long().cumsum(-1) - 1
    maxima = torch.zeros_like(values).scatter_reduce(-1, index, values, "amax")
    return maxima.gather(-1, index)
