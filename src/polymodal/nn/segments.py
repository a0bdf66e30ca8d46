"""Rows that hold several sequences one after another (packing): what must start anew at each of them.

    segments  [B, T]  1 1 1 2 2 2 2 3 0 0        equal numbers are one sequence; neighbours differ; 0: padding
    counts    [B, T]  1 2 3 4 5 6 7 8 8 8   ->   1 2 3 1 2 3 4 1 0 0          counted_within

All of it is arithmetic on the device of the tensors: nothing is read back to the host.
Trap: counts must not fall from left to right, which is what makes a running maximum the count at a segment's start.
"""

import torch
from torch import Tensor


def segment_starts(segments: Tensor) -> Tensor:
    """Bool [B, T]: the first token of every segment."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def counted_within(counts: Tensor, steps: Tensor, segments: Tensor) -> Tensor:
    """Running counts int [B, T] that begin at 0 again with every segment.

    counts: `steps.cumsum(-1)` of steps >= 0 over the whole row; a segment's own first step counts.
    """
    before = (counts - steps).masked_fill(~segment_starts(segments), 0)
    return counts - before.cummax(-1).values


def largest_within(values: Tensor, segments: Tensor) -> Tensor:
    """int [B, T]: the largest of `values` (>= 0) in each token's own segment."""
    run = segment_starts(segments).long().cumsum(-1) - 1
    found = torch.zeros_like(values).scatter_reduce(-1, run, values, "amax")
    return found.gather(-1, run)
