"""Buffers that a module computes while it is built: real numbers even where its parameters have no memory yet.

    computed_buffer(self, "positions", lambda: sinusoids(tokens, width), persistent=False)

A model is built on the meta device and then filled from files (weights/load.py); a table that no file holds would
have no values then.  Here it is computed on the CPU instead, and loading brings it to the model's device and dtype.
On any other device `make` runs there, as the rest of the module.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def computed_buffer(module: nn.Module, name: str, make: Callable[[], Tensor], persistent: bool = True) -> None:
    """Register what `make()` gives, computed on the CPU while a module is being built on the meta device."""
    if torch.empty(0).is_meta:
        with torch.device("cpu"):
            value = make()
    else:
        value = make()
    module.register_buffer(name, value, persistent)
