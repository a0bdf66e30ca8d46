"""Low-rank adapters (LoRA, arXiv 2106.09685; DoRA, 2402.09353) as a transformation of a built module tree.

    apply_lora(model, ("q_proj", "v_proj"), rank=8, alpha=16)     leaf names, dotted paths or prefixes; dora=True
    LoRA   y = x W^T + b + scale * dropout(x) A^T B^T             A random, B zero: nothing changes at first
    DoRA   W -> magnitude * V / |V|  with V = W + scale * B A, |V| by output and outside the gradient
    embedding   its table is the W^T of a linear that reads one-hot ids
    merge_lora adds the adapters to the weights;  remove_lora takes them off again;  lora_state, load_lora: A and B

An adapted part stays the same object with the same parameters under the same names, so tied weights, optimisers, key
tables and checkpoints of the bare model still fit; its class changes, and `adapters.<name>` is added below it.
Several adapters on one part are summed.  Equal to PEFT 0.21, whose names A, B and `magnitude` have here.
Traps: what is adapted is frozen until the last adapter is removed, everything else keeps its requires_grad; fuse only
after merging; quantised weights take LoRA beside them, but neither DoRA nor merging, which need the weight itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, UnknownName, WeightsError
from polymodal.nn.linear import Linear
from polymodal.nn.native.linear import shape_of
from polymodal.nn.precision import autocast_dtype
from polymodal.nn.quantise import QUANTISED

DEFAULT = "default"


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """The change of one weight: ``a [rank, in]``, ``b [out, rank]``, DoRA's ``magnitude [out]`` or None.

    For an embedding ``in`` is the vocabulary and ``out`` the width; dropout is for linears only, as in PEFT.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None
    dropout: float = 0.0


class LowRankPath(nn.Module):
    """One adapter beside one linear or embedding."""

    def __init__(self, change: LowRank):
        super().__init__()
        rank, width = change.a.shape
        self.scale = change.scale
        self.lora_A = Linear(width, rank, bias=False, device="meta")
        self.lora_B = Linear(rank, change.b.shape[0], bias=False, device="meta")
        self.lora_A.weight, self.lora_B.weight = nn.Parameter(change.a), nn.Parameter(change.b)
        self.magnitude = None if change.magnitude is None else nn.Parameter(change.magnitude)
        self.dropout = nn.Dropout(change.dropout)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x [..., in]`` and what the linear gives without the adapter, ``y [..., out]`` -> ``[..., out]``."""
        if self.magnitude is None and y.dtype == autocast_dtype(x.device.type):
            # Scaled where it is narrow, added by the product: one pass over the wide output instead of four.
            low = self.lora_A(self.dropout(x)) * self.scale
            added = torch.addmm(y.reshape(-1, y.shape[-1]), low.reshape(-1, low.shape[-1]), self.lora_B.weight.t())
            return added.view(y.shape)
        dropped = self.dropout(x.to(self.lora_A.weight.dtype))
        low = self.lora_B(self.lora_A(dropped)) * self.scale
        if self.magnitude is None:
            return (y + low).to(y.dtype)
        if self.training and self.dropout.p:
            plain = F.linear(dropped, weight.to(dropped.dtype))
        else:
            plain = y if bias is None else y - bias
        ratio = self.magnitude / self.norm(weight)
        return (y + (ratio - 1) * plain + ratio * low).to(y.dtype)

    def look_up(self, ids: Tensor, y: Tensor, table: Tensor) -> Tensor:
        """``ids [...]`` and their rows of the table without the adapter, ``y [..., D]`` -> ``[..., D]``."""
        low = self.lora_B(F.embedding(ids, self.lora_A.weight.T)) * self.scale
        if self.magnitude is None:
            return (y + low).to(y.dtype)
        return ((y + low) * (self.magnitude / self.norm(table.T))).to(y.dtype)

    def norm(self, weight: Tensor) -> Tensor:
        """The length of every output's row of the changed weight ``[out, in]``, detached -> ``[out]``."""
        return row_lengths(weight.detach() + self.delta())

    def delta(self) -> Tensor:
        """``scale * B A``, ``[out, in]``, at least float32 and detached."""
        a, b = self.lora_A.weight.detach(), self.lora_B.weight.detach()
        dtype = torch.promote_types(a.dtype, torch.float32)
        return b.to(dtype) @ a.to(dtype) * self.scale

    def change(self) -> LowRank:
        """What it was made of, as it is now."""
        magnitude = None if self.magnitude is None else self.magnitude.detach()
        return LowRank(a=self.lora_A.weight.detach(), b=self.lora_B.weight.detach(), scale=self.scale,
                       magnitude=magnitude, dropout=self.dropout.p)  # fmt: skip


def row_lengths(weight: Tensor) -> Tensor:
    """``[out, in] -> [out]``; rows of zeros (padding of a vocabulary) have a length that can be divided by."""
    return torch.linalg.vector_norm(weight, dim=1).clamp_min(torch.finfo(weight.dtype).tiny)


class _Adapted:
    """What an adapted part has besides: its adapters, its class without them, what was trainable before."""

    adapters: Any  # nn.ModuleDict of LowRankPath
    plain_class: type[Any]
    trainable: dict[str, bool]


class LoRALinear(Linear, _Adapted):
    """A linear with low-rank paths beside it. ``[..., in] -> [..., out]``"""

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        y = self.plain_class.forward(self, x)
        for path in self.adapters.values():
            y = path(x, y, self.weight, self.bias)
        return y


class LoRAEmbedding(nn.Embedding, _Adapted):
    """An embedding with low-rank paths beside it; a head that reads its ``weight`` does not see them."""

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        for path in self.adapters.values():
            y = path.look_up(input, y, self.weight)
        return y


# Exact classes only: a subclass may do more behind the product, where the low-rank path does not belong.
_CLASSES: dict[type, type] = {
    Linear: LoRALinear,
    nn.Linear: LoRALinear,
    nn.Embedding: LoRAEmbedding,
    **dict.fromkeys(QUANTISED, LoRALinear),
}
ADAPTED = (LoRALinear, LoRAEmbedding)


def adapt(part: nn.Module, change: LowRank, name: str = DEFAULT, path: str = "") -> None:
    """Give a linear or an embedding an adapter; path: what errors call it.

    Raises ConfigError for parts of another kind, for a name that is taken and for DoRA beside another adapter;
    WeightsError for other shapes.
    """
    if not isinstance(part, ADAPTED) and type(part) not in _CLASSES:
        raise ConfigError(f"{path!r} is a {type(part).__name__}; low-rank adapters go on linears and embeddings")
    own: Any = part
    rows, columns = own.weight.T.shape if isinstance(part, nn.Embedding) else shape_of(own.weight)
    rank = len(change.a)
    if change.a.shape != (rank, columns) or change.b.shape != (rows, rank):
        expected, found = f"A [rank, {columns}], B [{rows}, rank]", f"{list(change.a.shape)}, {list(change.b.shape)}"
        raise WeightsError(f"adapter {name!r} of {path!r}: expected {expected}, found {found}")
    if change.magnitude is not None and not own.weight.is_floating_point():
        raise ConfigError(f"{path!r} holds {own.weight.dtype} weights, which take no DoRA; load it without quantising")
    if change.magnitude is not None and change.magnitude.shape != (rows,):
        raise WeightsError(
            f"adapter {name!r} of {path!r}: expected a magnitude [{rows}], found {list(change.magnitude.shape)}"
        )
    if isinstance(part, ADAPTED):
        if name in part.adapters:
            raise ConfigError(f"{path!r} has an adapter {name!r} already; merge or remove it first")
        if change.magnitude is not None or any(each.magnitude is not None for each in part.adapters.values()):
            raise ConfigError(f"{path!r} has an adapter already; DoRA cannot be summed, merge or remove the first")
    else:
        own.plain_class, own.trainable = type(part), {n: p.requires_grad for n, p in part.named_parameters()}
        own.adapters = nn.ModuleDict()
        part.requires_grad_(False)
        own.__class__ = _CLASSES[type(part)]
    own.adapters[name] = LowRankPath(change).train(part.training)


def trains(part: nn.Module, name: str) -> bool:
    """Whether a parameter of a part is trainable when no adapter lies on it."""
    return part.trainable[name] if isinstance(part, ADAPTED) else part.get_parameter(name).requires_grad


def apply_lora(
    module: nn.Module,
    names: Iterable[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    adapter: str = DEFAULT,
    dora: bool = False,
) -> list[str]:
    """Give every chosen linear a fresh low-rank path; the dotted paths of the linears changed, in order.

    dora: each with the length of every output's row beside it, which begins as it is.
    A name chooses a linear whose path equals it, ends in ``.name`` or starts with ``name.``.  Raises UnknownName
    when a name chooses nothing, ConfigError for a rank below 1 or a linear that has this adapter already.
    """
    if rank < 1:
        raise ConfigError(f"LoRA rank must be at least 1; found {rank}")
    linears = {path: m for path, m in module.named_modules() if isinstance(m, nn.Linear)}
    chosen: dict[str, nn.Linear] = {}
    for name in names:
        found = {path: m for path, m in linears.items() if _matches(path, name)}
        if not found:
            leaves = ", ".join(sorted({path.rpartition(".")[2] for path in linears}))
            raise UnknownName(f"LoRA name {name!r} matches no linear; leaf names here are {leaves}")
        chosen.update(found)
    inside = {id(part) for path in _paths(module) for part in path.modules()}
    for path, part in chosen.items():
        if id(part) in inside or (isinstance(part, LoRALinear) and adapter in part.adapters):
            raise ConfigError(f"linear {path!r} has an adapter {adapter!r} already; merge or remove it first")
    for path, part in chosen.items():
        like = part.weight
        a, b = like.new_empty(rank, part.in_features), like.new_zeros(part.out_features, rank)
        nn.init.kaiming_uniform_(a, a=sqrt(5))
        lengths = row_lengths(like.detach()) if dora and like.is_floating_point() else None
        adapt(part, LowRank(a=a, b=b, scale=alpha / rank, magnitude=lengths, dropout=dropout), adapter, path)
    return [path for path in linears if path in chosen]


@torch.no_grad()
def merge_lora(module: nn.Module, adapter: str | None = None) -> int:
    """Add one adapter (None: all) to the weights, rounded once from float32, and remove it; how many parts changed.

    Raises ConfigError, before anything changes, for quantised weights.
    """
    parts = list(_having(module, adapter))
    for part in parts:
        if not part.weight.is_floating_point():
            raise ConfigError(f"adapters cannot be merged into {part.weight.dtype} weights; load it without quantising")
    for part in parts:
        weight = part.weight.T if isinstance(part, nn.Embedding) else part.weight
        changed = weight.to(torch.promote_types(weight.dtype, torch.float32))
        for name, path in part.adapters.items():
            if adapter in (None, name):
                changed = changed + path.delta()
                if path.magnitude is not None:
                    changed = changed * (path.magnitude / row_lengths(changed))[:, None]
        weight.copy_(changed)
    return remove_lora(module, adapter)


def remove_lora(module: nn.Module, adapter: str | None = None) -> int:
    """Take one adapter (None: all) off again; how many parts had it.  The weights are as they were."""
    parts = list(_having(module, adapter))
    for part in parts:
        for name in [adapter] if adapter is not None else list(part.adapters):
            del part.adapters[name]
        if not part.adapters:
            for name, trainable in part.trainable.items():
                part.get_parameter(name).requires_grad_(trainable)
            part.__class__ = part.plain_class
            del part.adapters, part.plain_class, part.trainable
    return len(parts)


def lora_changes(module: nn.Module, adapter: str = DEFAULT) -> dict[str, LowRank]:
    """An adapter's changes by the dotted path of what they change, detached."""
    return {
        path: part.adapters[adapter].change()
        for path, part in module.named_modules()
        if isinstance(part, ADAPTED) and adapter in part.adapters
    }


def lora_state(module: nn.Module, adapter: str = DEFAULT) -> dict[str, Tensor]:
    """An adapter's tensors by dotted name without the adapter's own: ``...q_proj.lora_A.weight``; detached."""
    state = {}
    for path, part in module.named_modules():
        if isinstance(part, ADAPTED) and adapter in part.adapters:
            prefix = f"{path}." if path else ""
            state.update({f"{prefix}{name}": x.detach() for name, x in part.adapters[adapter].named_parameters()})
    return state


def load_lora(module: nn.Module, state: Mapping[str, Tensor], adapter: str = DEFAULT) -> None:
    """Copy what ``lora_state`` gave into a module with the same paths; raises WeightsError on any difference."""
    targets = lora_state(module, adapter)
    odd = sorted(targets.keys() ^ state.keys())
    if odd:
        side = "is missing from the file" if odd[0] in targets else "has no place in the model"
        raise WeightsError(f"LoRA tensor {odd[0]!r} {side} ({len(odd)} differences); apply the same names first")
    for name, target in targets.items():
        if target.shape != state[name].shape:
            raise WeightsError(
                f"LoRA tensor {name!r} must have shape {list(target.shape)}; found {list(state[name].shape)}"
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith("." + name) or path.startswith(name + ".")


def _paths(module: nn.Module) -> Iterator[LowRankPath]:
    return (part for part in module.modules() if isinstance(part, LowRankPath))


def _having(module: nn.Module, adapter: str | None) -> Iterator[Any]:
    """The parts with this adapter, or with any."""
    for part in module.modules():
        if isinstance(part, ADAPTED) and (adapter is None or adapter in part.adapters):
            yield part
