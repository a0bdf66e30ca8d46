"""The running mean of the weights that train (`Stage.ema`).

    average_of(model, decay) -> {name: mean}      float32, begun as the weights are; of shared-out weights the own rows
    follow(average, optimiser, decay)             after its step: mean = decay * mean + (1 - decay) * weight

What is frozen has no mean, and a stage without `ema` holds none.  A checkpoint saves it (checkpoint.py), `export --ema`
writes it.  Traps: of low-rank paths A and B are averaged each, not their product; buffers (statistics of batch norms)
are those of the model.  Polyak and Juditsky, 1992, with exponential weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from polymodal.train.ranks import local


def average_of(model: nn.Module, decay: float | None) -> dict[str, Tensor]:
    """The mean as it begins; empty without a decay."""
    if decay is None:
        return {}
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    return {name: each.detach().to(torch.float32, copy=True) for name, each in named}


@torch.no_grad()
def follow(average: Mapping[str, Tensor], optimiser: Optimizer, decay: float) -> None:
    """Move the mean towards the weights, in place.  The optimiser's are the shared-out ones, whatever the model did."""
    groups = optimiser.param_groups
    named = {name: each for group in groups for name, each in zip(group["names"], group["params"], strict=True)}
    means = [local(mean) for mean in average.values()]
    weights = [local(named[name].detach()).to(torch.float32) for name in average]
    torch._foreach_lerp_(means, weights, 1 - decay)
