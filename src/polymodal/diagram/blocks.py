"""The layers inside a stack of transformer blocks, read off the modules: what every block does, in its order.

    cross-attention (type A) -> prompts inside attention, branches by modality (type B) -> self-attention -> MLP

Blocks of one stack may differ (cross-attention in every fourth one); the row then says in how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from polymodal.backbones.decoder import DecoderBlock
from polymodal.diagram.graph import Branch, Group, Row
from polymodal.fusion.cross_attention import GatedCrossAttention
from polymodal.fusion.prefix import GatedPrefix
from polymodal.fusion.routing import Routed, RoutedDelta
from polymodal.nn.attention import Attention
from polymodal.nn.mlp import MLP, GatedMLP
from polymodal.nn.moe import MoE

if TYPE_CHECKING:
    from polymodal.diagram.parameters import Parameters

KINDS = ("text", "image")
"""Whose the branches of a routed layer are, in the order of `fusion.routing`: TEXT, VISUAL."""


def block_group(key: str, blocks: nn.ModuleList, parameters: Parameters, source: str = "image") -> Group:
    """The rows of a stack; source: the modality that cross-attention or prompts bring in."""
    stack = list(blocks)
    attention = [each for block in stack for name, each in block.named_children() if name == "attn"]
    cross = _child(stack, "cross")
    rows = [*_prefix_rows(key, attention, parameters, source), _attention_row(key, stack, attention, parameters)]
    if cross:
        ahead = isinstance(stack[0], DecoderBlock) and stack[0].cross_at == "front"
        at = 0 if ahead else len(rows)  # in front of the block, or behind its attention
        rows.insert(at, _cross_row(key, stack, cross, parameters, source))
    rows.append(_mlp_row(key, stack, parameters))
    return Group(rows=tuple(rows), repeat=f"x {len(stack)}")


def _child(stack: Sequence[nn.Module], name: str) -> dict[int, nn.Module]:
    """Children of that name by the index of their block."""
    return {index: each for index, block in enumerate(stack) for called, each in block.named_children()
            if called == name}  # fmt: skip


def _cross_row(
    key: str, stack: Sequence[nn.Module], cross: dict[int, nn.Module], parameters: Parameters, source: str
) -> Row:
    modules = list(cross.values())
    gated = isinstance(modules[0], GatedCrossAttention)
    names = parameters.names(*modules, *_child(stack, "cross_norm").values())
    words = ("tanh gates, starting at 0" if gated else "", which(list(cross), len(stack)))
    return Row(key=f"{key}.cross", title="gated cross-attention" if gated else "cross-attention",
               text="; ".join(each for each in words if each), modality=source, names=names)  # fmt: skip


def _prefix_rows(key: str, attention: Sequence[nn.Module], parameters: Parameters, source: str) -> list[Row]:
    prefixes = {index: each.prefix for index, each in enumerate(attention)
                if isinstance(each, Attention) and isinstance(each.prefix, GatedPrefix)}  # fmt: skip
    if not prefixes:
        return []
    length = next(iter(prefixes.values())).prompt.shape[0]
    text = f"{length} prompts a layer; {which(list(prefixes), len(attention))}".rstrip("; ")
    return [Row(key=f"{key}.prefix", title="gated prompts in attention", text=text, modality=source,
                names=parameters.names(*prefixes.values()))]  # fmt: skip


def _attention_row(key: str, stack: Sequence[nn.Module], attention: Sequence[nn.Module], parameters: Parameters) -> Row:
    norms = _child(stack, "attn_norm")
    prefixes = set(parameters.names(*(each.prefix for each in attention if isinstance(each, Attention))))
    names = tuple(name for name in parameters.names(*norms.values(), *attention) if name not in prefixes)
    first = attention[0]
    text = ""
    if isinstance(first, Attention):
        heads, keys = first.config.heads, first.config.key_heads
        text = f"{heads} heads" if heads == keys else f"{heads} heads, {keys} KV heads"
        if isinstance(first.q_proj, RoutedDelta):
            text += f"; low-rank paths of rank {first.q_proj.config.rank}"
    branches, shared = _branches({"norm": list(norms.values()), "": list(attention)}, parameters)
    if shared and branches:
        text += f"; shared: {', '.join(shared)}"
    return Row(key=f"{key}.attn", title="self-attention", text=text, names=names, branches=branches)


def _mlp_row(key: str, stack: Sequence[nn.Module], parameters: Parameters) -> Row:
    norms, mlps = _child(stack, "mlp_norm"), _child(stack, "mlp")
    names = parameters.names(*norms.values(), *mlps.values())
    first = next(iter(mlps.values()), None)
    one = first.branches[0] if isinstance(first, Routed) else first
    title, text = "MLP", ""
    if isinstance(one, GatedMLP | MLP):
        title = "gated MLP" if isinstance(one, GatedMLP) else "MLP"
        text = f"{one.config.width} -> {one.config.ffn_width} -> {one.config.width}"
    if isinstance(one, MoE):
        title, text = "mixture of experts", f"{one.config.experts} experts, {one.config.top_k} a token"
    branches, _ = _branches({"norm": list(norms.values()), "MLP": list(mlps.values())}, parameters)
    return Row(key=f"{key}.mlp", title=title, text=text, names=names, branches=branches)


def _branches(layers: dict[str, list[nn.Module]], parameters: Parameters) -> tuple[tuple[Branch, ...], tuple[str, ...]]:
    """The branches of routed layers by modality, and the projections that all tokens share."""
    routed: dict[str, list[Routed]] = {}
    shared: list[str] = []
    for name, modules in layers.items():
        for module in modules:
            inside = {name: module} if isinstance(module, Routed) else dict(module.named_children())
            for child, each in inside.items():
                label = child.removesuffix("_proj")
                if isinstance(each, Routed):
                    routed.setdefault(label, []).append(each)
                elif child.endswith("_proj") and label not in shared:
                    shared.append(label)
    if not routed:
        return (), ()
    first = next(iter(routed.values()))[0]
    layers_of = [each for same in routed.values() for each in same]
    branches = []
    for kind, route in enumerate(first.routes):
        modality = KINDS[kind] if kind < len(KINDS) else f"type {kind}"
        names = parameters.names(*(each.branches[route] for each in layers_of))
        branches.append(Branch(text=f"{modality}: {' '.join(routed)}", modality=modality, names=names))
    return tuple(branches), tuple(shared)


def which(indices: Sequence[int], depth: int) -> str:
    """Which blocks of a stack, in words; empty for all of them."""
    if len(indices) == depth:
        return ""
    steps = {later - earlier for earlier, later in pairwise(indices)}
    if len(steps) == 1 and (step := steps.pop()) > 1:
        return f"every {step}th block" if step > 3 else f"every {('', '', 'second', 'third')[step]} block"
    return f"in {len(indices)} of {depth} blocks"
