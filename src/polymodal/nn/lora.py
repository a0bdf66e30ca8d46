"""Low-rank adaptation (arXiv 2106.09685) as a transformation of a built module tree.

    apply_lora(model, ("q_proj", "v_proj"), rank=8, alpha=16)     leaf names, dotted paths or prefixes
    y = x W^T + b + (alpha / rank) * dropout(x) A^T B^T           A random, B zero: nothing changes at first
    lora_state(model)  ->  only A and B;   load_lora puts them back;   merge_lora adds B A to W

The wrapped linear keeps the names `weight` and `bias`, so key tables and checkpoints of the bare model still fit;
A and B are called `lora_A.weight [rank, in]` and `lora_B.weight [out, rank]` as in PEFT's files.
Traps: the linears chosen are frozen, everything else keeps its requires_grad; fuse or quantise only after merging.
"""

from collections.abc import Iterable, Mapping
from math import sqrt

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, UnknownName, WeightsError
from polymodal.nn.linear import Linear, linear


class LoRALinear(Linear):
    """A Linear with a low-rank path beside it. ``[..., in] -> [..., out]``"""

    def __init__(self, base: Linear, rank: int, alpha: float, dropout: float):
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        if base.bias is not None:
            self.bias = nn.Parameter(base.bias.detach(), requires_grad=False)
        self.scale = alpha / rank
        place = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = Linear(base.in_features, rank, bias=False, **place)
        self.lora_B = Linear(rank, base.out_features, bias=False, **place)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, self.bias) + self.lora_B(self.lora_A(self.dropout(x))) * self.scale


def apply_lora(module: nn.Module, names: Iterable[str], rank: int, alpha: float, dropout: float = 0.0) -> list[str]:
    """Give every chosen Linear a low-rank path; the dotted paths of the linears changed, in order.

    A name chooses a linear whose path equals it, ends in ``.name`` or starts with ``name.``.  Raises UnknownName
    when a name chooses nothing, ConfigError for a rank below 1 or a linear that has a path already.
    """
    if rank < 1:
        raise ConfigError(f"LoRA rank must be at least 1; found {rank}")
    linears = {path: m for path, m in module.named_modules() if isinstance(m, Linear)}
    chosen: dict[str, Linear] = {}
    for name in names:
        found = {path: m for path, m in linears.items() if _matches(path, name)}
        if not found:
            leaves = ", ".join(sorted({path.rpartition(".")[2] for path in linears}))
            raise UnknownName(f"LoRA name {name!r} matches no linear; leaf names here are {leaves}")
        chosen.update(found)
    for path, base in chosen.items():
        if isinstance(base, LoRALinear) or _inside_lora(module, path):
            raise ConfigError(f"linear {path!r} has a LoRA path already; merge it first")
    for path, base in chosen.items():
        _replace(module, path, LoRALinear(base, rank, alpha, dropout))
    return [path for path in linears if path in chosen]


def merge_lora(module: nn.Module) -> int:
    """Replace each LoRALinear by a plain Linear with ``W + scale * B A``; how many were merged."""
    adapted = [(path, m) for path, m in module.named_modules() if isinstance(m, LoRALinear)]
    for path, part in adapted:
        merged = Linear(part.in_features, part.out_features, bias=part.bias is not None, device="meta")
        delta = part.lora_B.weight.detach().float() @ part.lora_A.weight.detach().float() * part.scale
        merged.weight = nn.Parameter((part.weight.detach().float() + delta).to(part.weight.dtype))
        if part.bias is not None:
            merged.bias = nn.Parameter(part.bias.detach())
        _replace(module, path, merged)
    return len(adapted)


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of all low-rank paths by dotted name, detached."""
    state = {}
    for path, part in module.named_modules():
        if isinstance(part, LoRALinear):
            state[_name(path, "lora_A.weight")] = part.lora_A.weight.detach()
            state[_name(path, "lora_B.weight")] = part.lora_B.weight.detach()
    return state


def load_lora(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy what ``lora_state`` gave into a module with the same paths; raises WeightsError on any difference."""
    places = lora_state(module)
    odd = sorted(places.keys() ^ state.keys())
    if odd:
        side = "is missing from the file" if odd[0] in places else "has no place in the model"
        raise WeightsError(f"LoRA tensor {odd[0]!r} {side} ({len(odd)} differences); apply the same names first")
    for name, place in places.items():
        if place.shape != state[name].shape:
            raise WeightsError(
                f"LoRA tensor {name!r} must have shape {list(place.shape)}; found {list(state[name].shape)}"
            )
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(state[name])


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith("." + name) or path.startswith(name + ".")


def _inside_lora(module: nn.Module, path: str) -> bool:
    parent = path.rpartition(".")[0]
    return bool(parent) and isinstance(module.get_submodule(parent), LoRALinear)


def _replace(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, part)


def _name(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf
