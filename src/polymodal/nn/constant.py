"""Small tables of numbers that every step needs on the device, sent there once.

`torch.tensor(list, device=...)` makes the host wait for an accelerator, which between two tokens costs more than the
table; what is asked for again by the same numbers is the same tensor.  Never write into one.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`values` as a tensor [n]."""
    # Made outside of inference mode, so that a training step may use it too.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
