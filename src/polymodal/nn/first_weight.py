"""Where a module computes: the device and dtype of its first parameter, also of a module that has none.

first_weight(module) -> Tensor; .device and .dtype are what the module's inputs must have
"""

import torch
from torch import Tensor, nn


def first_weight(module: nn.Module) -> Tensor:
    """The first parameter; of a module without any (an agent) an empty float32 tensor on the CPU."""
    return next(module.parameters(), torch.empty(0))
