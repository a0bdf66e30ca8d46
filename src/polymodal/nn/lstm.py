"""A recurrent network of LSTM layers with torch's names (`weight_ih_l0`, ...), as a function of its parameters.

    x [B, S, D] -> depth layers of width W, from a state of zeros -> [B, S, W]

Trap: `torch.nn.LSTM` keeps a second list of its weights, which goes on holding the old ones when a model is filled from
files, moved or sharded; here they are collected at each call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """One direction, batch first.  dropout: between layers, while training."""

    def __init__(self, in_width: int, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.depth, self.dropout = width, depth, dropout
        bound = width**-0.5
        for layer in range(depth):
            source = width if layer else in_width
            shapes = {"weight_ih": (4 * width, source), "weight_hh": (4 * width, width), "bias_ih": (4 * width,),
                      "bias_hh": (4 * width,)}  # fmt: skip
            for name, shape in shapes.items():
                values = nn.Parameter(torch.empty(shape))
                nn.init.uniform_(values, -bound, bound)
                self.register_parameter(f"{name}_l{layer}", values)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, W]"""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, f"{name}_l{layer}") for layer in range(self.depth) for name in names]
        zeros = x.new_zeros(self.depth, len(x), self.width)
        dropout = self.dropout if self.training else 0.0
        return torch.lstm(x, (zeros, zeros), weights, True, self.depth, dropout, self.training, False, True)[0]
