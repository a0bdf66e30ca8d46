"""Small constant tensors that every decoding step needs on the device, cached by value.

`torch.tensor(list, device=...)` synchronises the host with an accelerator, which is expensive between two tokens.
Equal values return the same tensor; never modify it in place.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`values` as a tensor [n]."""
    # Created outside of inference mode, so that a training step can use it too.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
