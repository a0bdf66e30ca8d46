"""Fewer, larger matrix products for inference: fuses q, k, v into one linear, and gate, up into another.

    fuse_projections(model)     after loading, before generation; returns the number of linears it replaced
    split_projections(model)    the inverse, for training
    split_state(model, names)   the state dict as if it were not fused, for saving

It transforms a built module tree, so configs, key tables, LoRA files and routed linears keep the names q_proj,
k_proj, v_proj, gate_proj, up_proj.  Measured for SmolLM2-135M decoding on one AMD Zen 4 core: 8 % more tokens per
second.
Traps: a fused module's state dict has other names (`qkv_proj`, `gate_up_proj`); parts with linears that are not plain
(routed, low-rank, int8), with q or k norms, or with a prefix are not fused.
"""

from collections.abc import Container, Sequence

import torch
from torch import Tensor, nn

from polymodal.nn.attention import Attention
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import GatedMLP

_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")


def fuse_projections(module: nn.Module) -> int:
    """Fuse in place where possible; returns the number of linears that were replaced."""
    count = 0
    for part in module.modules():
        if isinstance(part, Attention):
            if not (part.config.source_width or part.q_norm or part.k_norm or part.prefix):
                count += _fuse(part, _QKV, "qkv_proj")
        elif isinstance(part, GatedMLP):
            count += _fuse(part, _GATE_UP, "gate_up_proj")
    return count


def split_projections(module: nn.Module) -> int:
    """Undo ``fuse_projections``; returns the number of linears that were restored."""
    count = 0
    for part in module.modules():
        if isinstance(part, Attention):
            count += _split(part, _QKV, "qkv_proj", _attention_rows(part))
        elif isinstance(part, GatedMLP):
            count += _split(part, _GATE_UP, "gate_up_proj", [part.config.ffn_width] * 2)
    return count


def _fuse(part: nn.Module, names: Sequence[str], fused: str) -> int:
    linears = [getattr(part, name) for name in names]
    has_bias = {isinstance(x, Linear) and x.bias is not None for x in linears}
    if any(type(x) is not Linear for x in linears) or len(has_bias) > 1:
        return 0
    bias = torch.cat([x.bias.detach() for x in linears]) if has_bias == {True} else None
    setattr(part, fused, _linear(torch.cat([x.weight.detach() for x in linears]), bias))
    for name in names:
        delattr(part, name)
    return len(names)


def _split(part: nn.Module, names: Sequence[str], fused: str, rows: Sequence[int]) -> int:
    linear = getattr(part, fused)
    if linear is None:
        return 0
    weights = linear.weight.detach().split(list(rows))
    biases = [None] * len(names) if linear.bias is None else linear.bias.detach().split(list(rows))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        setattr(part, name, _linear(weight.clone(), None if bias is None else bias.clone()))
    setattr(part, fused, None)
    return len(names)


def _linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """A Linear with the given tensors, without initialising others first."""
    linear = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def split_state(module: nn.Module, names: Container[str]) -> dict[str, Tensor]:
    """The state dict with fused weights cut into those they were made of, where those are among `names`."""
    state = module.state_dict()
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(part, Attention) and f"{prefix}{_QKV[0]}.weight" in names:
            _split_entry(state, prefix, _QKV, "qkv_proj", _attention_rows(part))
        elif isinstance(part, GatedMLP) and f"{prefix}{_GATE_UP[0]}.weight" in names:
            _split_entry(state, prefix, _GATE_UP, "gate_up_proj", [part.config.ffn_width] * 2)
    return state


def _split_entry(state: dict[str, Tensor], prefix: str, names: Sequence[str], fused: str, sizes: Sequence[int]) -> None:
    for leaf in ("weight", "bias"):
        whole = state.pop(f"{prefix}{fused}.{leaf}", None)
        if whole is not None:
            state |= {f"{prefix}{name}.{leaf}": x for name, x in zip(names, whole.split(list(sizes)), strict=True)}


def _attention_rows(part: Attention) -> list[int]:
    return [n * part.config.size for n in (part.config.heads, part.config.key_heads, part.config.key_heads)]
