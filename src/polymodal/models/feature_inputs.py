"""What models on features ask of their inputs: sequences of vectors by modality, [B, T, F], and lengths [B].

Shared by KernelMachine, SelfMM, TensorFusion and their like; an error names the modality, what was expected and found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.errors import ConfigError, PromptError


def checked(
    model: str, batch: Mapping[str, Any], widths: Mapping[str, int], beside: Collection[str] = ()
) -> dict[str, Tensor]:
    """The features of a batch, `[B, T, F]`; vectors `[B, F]` are sequences of one step.

    beside: other inputs that the model reads.  Raises ConfigError for an unknown input, PromptError for one that is
    missing or of another shape, and for lengths that are not 1 to T.
    """
    given = {name: value for name, value in batch.items() if value is not None}
    known = {*widths, *(f"{name}_lengths" for name in widths), *beside}
    if unknown := sorted(set(given) - known):
        raise ConfigError(f"{model}: does not know the inputs {unknown}; it takes {', '.join(widths)} and lengths")
    features = {}
    for name, width in widths.items():
        if name not in given:
            raise PromptError(f"{model}: expected {', '.join(widths)}, found no {name}")
        x = given[name]
        if x.dim() not in (2, 3) or x.shape[-1] != width or 0 in x.shape:
            raise PromptError(f"{model}: {name} must be [B, T, {width}] or [B, {width}], found {list(x.shape)}")
        features[name] = x[:, None] if x.dim() == 2 else x
        check_lengths(model, name, features[name], given.get(f"{name}_lengths"))
    if len({len(x) for x in features.values()}) > 1:
        counts = ", ".join(f"{name} {len(x)}" for name, x in features.items())
        raise PromptError(f"{model}: expected one number of samples, found {counts}")
    return features


def check_lengths(model: str, name: str, x: Tensor, lengths: Tensor | None) -> None:
    """Raises PromptError for lengths that are not [B], or on the host not 1 to T."""
    if lengths is None:
        return
    if lengths.shape != (len(x),):
        raise PromptError(f"{model}: {name}_lengths must be [{len(x)}], found {list(lengths.shape)}")
    if lengths.device.type == "cpu" and not bool(((lengths >= 1) & (lengths <= x.shape[1])).all()):
        raise PromptError(f"{model}: {name}_lengths must be 1 to {x.shape[1]}, found {lengths.tolist()}")


def step_mask(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """1 at real steps, `[B, T, 1]` of the type of x; None where all are real."""
    if lengths is None:
        return None
    steps = torch.arange(x.shape[1], device=x.device)
    return (steps < lengths.to(x.device)[:, None]).to(x.dtype)[..., None]


def padded(x: Tensor, lengths: Tensor | None, steps: int | None) -> Tensor:
    """`[B, steps, F]`: zeros behind the real steps; what lies beyond `steps` is cut off.  steps None: as it is."""
    mask = step_mask(x, lengths)
    x = x if mask is None else x * mask
    return x if steps is None else F.pad(x[:, :steps], (0, 0, 0, max(0, steps - x.shape[1])))


def mean_over_time(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """`[B, T, F] -> [B, F]`, over real steps."""
    mask = step_mask(x, lengths)
    return x.mean(1) if mask is None else (x * mask).sum(1) / mask.sum(1)


def last_step(states: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The state at each row's last real step, `[B, T, D] -> [B, D]`."""
    if lengths is None:
        return states[:, -1]
    return states[torch.arange(len(states), device=states.device), lengths.to(states.device) - 1]
