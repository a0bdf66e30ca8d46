"""Which parameters a box holds, how many numbers these are, and what a training stage does with them.

A parameter that several modules share has one name, its first, and is counted once in each box that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from polymodal.diagram.graph import Branch, Graph, Group, Node, Row, State
from polymodal.printable import human_count

if TYPE_CHECKING:
    from torch import nn

    from polymodal.train.recipe import Stage


class Parameters:
    """Names and sizes of the parameters of a built module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.sizes = {name: tensor.numel() for name, tensor in module.named_parameters()}
        self._first_name = {id(tensor): name for name, tensor in module.named_parameters()}

    def names(self, *modules: nn.Module | None) -> tuple[str, ...]:
        """The parameters below these modules, each once."""
        tensors = (tensor for module in modules if module is not None for tensor in module.parameters())
        return tuple(dict.fromkeys(self._first_name[id(tensor)] for tensor in tensors))

    def count(self, names: Iterable[str]) -> int:
        """How many numbers they hold."""
        return sum(self.sizes[name] for name in names)


def with_stage(graph: Graph, parameters: Parameters, stage: Stage, total: int) -> Graph:
    """The graph with every node, row and branch marked by what the stage trains of it.

    total: parameters of the whole, parts beside the module included.
    """
    from polymodal.train.parameters import trained_sizes

    trained, _ = trained_sizes(parameters.module, stage)
    number = sum(trained.values())
    words = f"stage {stage.name}: trains {human_count(number)} parameters, {100 * number / max(total, 1):.2f} %"

    def state(names: tuple[str, ...]) -> State:
        return state_of(names, parameters.sizes, trained)

    def row(each: Row) -> Row:
        return replace(each, state=state(each.names), branches=tuple(branch(part) for part in each.branches))

    def branch(each: Branch) -> Branch:
        return replace(each, state=state(each.names))

    def group(each: Group) -> Group:
        return replace(each, rows=tuple(map(row, each.rows)))

    def node(each: Node) -> Node:
        # What lies outside the model (a diffusion pipeline, a recogniser loaded beside it) no stage can train.
        outside: State = "frozen" if each.kind in ("encoder", "generator") else ""
        return replace(each, state=state(each.names) or outside, groups=tuple(map(group, each.groups)))

    return replace(graph, stage=words, nodes=tuple(map(node, graph.nodes)))


def state_of(names: tuple[str, ...], sizes: Mapping[str, int], trained: Mapping[str, int]) -> State:
    """Whether a stage trains these parameters, some of them, none, or low-rank paths beside them.

    trained: sizes by parameter, and by "<linear>.lora" for low-rank paths (`train.parameters.trained_sizes`).
    """
    if not names:
        return ""
    number = sum(trained.get(name, 0) for name in names)
    if number == sum(sizes[name] for name in names):
        return "trained"
    if any(f"{name.rpartition('.')[0]}.lora" in trained for name in names):
        return "lora"
    return "partly" if number else "frozen"
