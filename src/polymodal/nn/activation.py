"""Activation functions, by the names that published configs use.

transformers' names for the same functions are accepted too (``gelu_pytorch_tanh``, ``gelu_new``, ``swish``,
``relu2``); its activations with weights (``prelu``, ``xielu``) are not supported.
Trap: ``gelu`` is the exact erf form, ``gelu_tanh`` the tanh approximation (Gemma, GPT-2's ``gelu_new``) and
``quick_gelu`` the sigmoid approximation of CLIP; they differ by up to 2e-2, enough to break parity.
"""

import difflib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.errors import UnknownName

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, as in OpenAI's CLIP models."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the tanh approximation (arXiv 1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """``relu(x) ** 2`` (Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


def gelu_10(x: Tensor) -> Tensor:
    """GELU clipped to [-10, 10] (arXiv 2004.09602)."""
    return F.gelu(x).clamp(-10, 10)


def identity(x: Tensor) -> Tensor:
    """No activation, called ``linear`` in configs."""
    return x


def _laplace(x: Tensor) -> Tensor:
    """Cumulative normal distribution with the moments of MEGA (arXiv 2209.10655)."""
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


def _sqrt_softplus(x: Tensor) -> Tensor:
    return F.softplus(x).sqrt()


ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "squared_relu": squared_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "swish": F.silu,
    "gelu_python": F.gelu,
    "gelu_10": gelu_10,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "relu2": squared_relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "laplace": _laplace,
    "sqrtsoftplus": _sqrt_softplus,
    "hardswish": F.hardswish,
    "linear": identity,
}


def activation(name: str) -> Activation:
    """The activation function ``name``; raises UnknownName with the closest known name."""
    try:
        return ACTIVATIONS[name]
    except KeyError:
        close = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(sorted(ACTIVATIONS))}"
        raise UnknownName(f"activation {name!r} does not exist; {hint}") from None
