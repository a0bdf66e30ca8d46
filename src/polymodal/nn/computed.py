"""Buffers that a module computes in its constructor, with values even if the module is built on the meta device.

    computed_buffer(self, "positions", lambda: sinusoids(tokens, width), persistent=False)

A model is built on the meta device and then filled from files (weights/load.py), so a table that is not in the files
would have no values.  It is therefore computed on the CPU, and loading moves it to the model's device and dtype.  A
file that holds the table all the same (persistent) fills it; one that leaves it out is whole without it.  On any other
device `make` runs on that device, like the rest of the constructor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def computed_buffer(module: nn.Module, name: str, make: Callable[[], Tensor], persistent: bool = True) -> None:
    """Register the result of `make()` as a buffer; on the meta device, `make` runs on the CPU."""
    if torch.empty(0).is_meta:
        with torch.device("cpu"):
            value = make()
    else:
        value = make()
    module.register_buffer(name, value, persistent)
