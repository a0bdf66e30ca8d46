"""Element-wise functions between two linears, by the names that published configs use.

Trap: ``gelu`` is the exact erf form, ``gelu_tanh`` the tanh approximation (Gemma, GPT-2's ``gelu_new``) and
``quick_gelu`` the sigmoid approximation of CLIP; they differ by up to 2e-2, enough to ruin parity.
"""

import difflib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.errors import UnknownName

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, the form the first CLIP models were trained with."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the tanh approximation (arXiv 1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """``relu(x) ** 2`` (Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "squared_relu": squared_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def activation(name: str) -> Activation:
    """The function called ``name``; raises UnknownName with the nearest name."""
    try:
        return ACTIVATIONS[name]
    except KeyError:
        near = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(ACTIVATIONS))}"
        raise UnknownName(f"activation {name!r} does not exist; {hint}") from None
