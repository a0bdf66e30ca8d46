"""A linear whose matrix is a direction times one length (weight normalisation, arXiv 1602.07868).

    weight = weight_g * weight_v / |weight_v|        x [..., in] -> [..., out]
The heads of ViLBERT are built of it.  Trap: torch's `dim=None` keeps the length as a scalar; here it is [1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """`[..., in] -> [..., out]`; the length starts as that of the direction, so that both are the plain matrix."""

    def __init__(self, in_width: int, out_width: int):
        super().__init__()
        plain = nn.Linear(in_width, out_width)
        self.weight_v = nn.Parameter(plain.weight.detach().clone())
        self.weight_g = nn.Parameter(plain.weight.detach().norm()[None])
        self.bias = nn.Parameter(torch.zeros(out_width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_g * self.weight_v / self.weight_v.norm(), self.bias)
