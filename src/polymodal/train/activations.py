"""Activation checkpointing: blocks keep their inputs alone and are computed again in the backward pass.

    with checkpointed(model, every=1): ...      every block (least memory); 2: every second one; 0: none

Gradients are the same bit for bit, random numbers of dropout included; a step takes about a third longer.  A block that
no gradient passes keeps nothing anyway and is left alone.  Chen et al., arXiv 1604.06174.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from polymodal.errors import ConfigError
from polymodal.train.parallel import own_blocks, parts


@contextmanager
def checkpointed(model: nn.Module, every: int = 1) -> Iterator[int]:
    """Checkpoint every `every`-th block of each part while the context lasts; yields how many.

    Raises ConfigError for a negative number.
    """
    if every < 0:
        raise ConfigError(f"activation checkpointing: expected 0 (none) or more, found {every}")
    chosen = [block for part in parts(model) for block in list(own_blocks(part))[::every]] if every else []
    for block in chosen:
        # In place of the method: a wrapper module would change the names of parameters.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    try:
        yield len(chosen)
    finally:
        for block in chosen:
            del block.forward
