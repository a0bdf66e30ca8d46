"""A graph under construction: the built module, its record, and the nodes and edges so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from polymodal.diagram.graph import Edge, Graph, Kind, Node
from polymodal.diagram.parameters import Parameters
from polymodal.printable import human_count

if TYPE_CHECKING:
    from torch import nn

    from polymodal.checkpoints.record import Part
    from polymodal.systems import System, Variant

FUSION = {
    "A": "A: cross-attention between the blocks",
    "B": "B: layers of its own inside the blocks",
    "C": "C: features at placeholders of the input",
    "D": "D: discrete tokens of one vocabulary",
    "fusion-encoder": "modalities fused in one transformer",
}


class Sketch:
    """Nodes and edges of one variant.  module: built on the meta device; parts: the boxes of its record."""

    def __init__(self, system: System, variant: Variant, module: nn.Module) -> None:
        self.system, self.variant, self.module = system, variant, module
        self.parts: tuple[Part, ...] = tuple(system.drawing(variant))
        self.parameters = Parameters(module)
        self.lanes: list[str] = []
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.columns: dict[str, str] = {}
        self.notes: list[str] = []

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def connect(self, source: str, target: str, modality: str = "", faint: bool = False) -> None:
        self.edges.append(Edge(source=source, target=target, modality=modality, faint=faint))

    @property
    def total(self) -> int:
        """Parameters of the module, and of parts that are loaded beside it."""
        return sum(self.parameters.sizes.values()) + sum(part.parameters for part in self.parts if not part.prefix)

    def part_of(self, module: nn.Module) -> Part | None:
        """The box of the record that stands for this module, by its prefix."""
        paths = {name for name, each in self.module.named_modules(remove_duplicate=False) if each is module}
        return next((part for part in self.parts if part.prefix in paths and part.prefix), None)

    def names(self, *modules: nn.Module | None) -> tuple[str, ...]:
        return self.parameters.names(*modules)

    def size(self, names: Sequence[str]) -> str:
        """ "303.5M parameters" """
        return f"{human_count(self.parameters.count(names))} parameters"

    def module_node(self, module: Any, *, key: str, title: str = "", lines: Sequence[str] = (), **fields: Any) -> Node:
        """A box for one module: its name in the record, its size, and what it hands on."""
        part, names = self.part_of(module), self.names(module)
        shapes = () if part is None else shapes_of(part, with_input=fields["column"] == "encoder")
        title = title or (type(module).__name__ if part is None else part.name)
        size = (self.size(names),) if names else ()
        return self.add(Node(key=key, title=title, lines=(*size, *shapes, *lines), names=names, **fields))

    def input(self, modality: str, lane: str = "") -> str:
        """What a person gives; returns its key."""
        key = f"input.{modality}"
        self.add(Node(key=key, kind="input", column="input", lanes=(lane or modality,), title=modality,
                      modality=modality))  # fmt: skip
        return key

    def output(self, name: str, source: str, lane: str, modality: str = "text", lines: Sequence[str] = ()) -> str:
        """What the model gives; returns its key."""
        key = f"output.{name}"
        self.add(Node(key=key, kind="output", column="output", lanes=(lane,), title=name, modality=modality,
                      lines=tuple(lines)))  # fmt: skip
        self.connect(source, key, modality)
        return key

    def tokenizer(self, column: str = "tokenizer") -> str:
        """Text enters: written words become ids."""
        self.add(Node(key="tokenizer", kind="tool", column=column, lanes=("text",), title="tokenizer",
                      lines=("text -> ids [B, T]",), modality="text"))  # fmt: skip
        self.connect(self.input("text"), "tokenizer", "text")
        return "tokenizer"

    def embedding(self, table: nn.Module, column: str = "connector", source: str = "tokenizer") -> str:
        """The lookup table of token embeddings."""
        names = self.names(table)
        shape = next(iter(table.parameters())).shape
        self.add(Node(key="embedding", kind="connector", column=column, lanes=("text",), title="token embedding",
                      lines=(self.size(names), f"{shape[0]} ids -> [B, T, {shape[1]}]"), modality="text",
                      names=names))  # fmt: skip
        self.connect(source, "embedding", "text")
        return "embedding"

    def finish(self) -> Graph:
        """The graph, with the outputs and inputs of the record that this variant has not."""
        lane = self.lanes[-1] if self.lanes else "text"
        where = "other variants" if len(self.system.variants) > 1 else "beside the model"
        ends: tuple[tuple[Kind, Sequence[str]], ...] = (
            ("output", self.system.outputs),
            ("input", self.system.inputs),
        )
        for kind, every in ends:
            shown = {node.title for node in self.nodes if node.kind == kind}
            for name in every:
                if name not in shown:
                    self.add(Node(key=f"{kind}.{name}", kind=kind, column=kind, lanes=(lane,), title=name,
                                  lines=(where,), faint=True))  # fmt: skip
        names, headline = self.system.aliases[0] if self.system.aliases else self.system.id, self.system.headline
        size = f", {human_count(self.total)} parameters" if self.total else ""
        return Graph(
            title=f"{self.system.id}:{self.variant.name}",
            subtitle=f"{names} ({self.system.year}){size}. {headline[:1].upper()}{headline[1:]}",
            badge=" + ".join(FUSION[letter] for letter in self.system.fusion if letter in FUSION),
            lanes=tuple(self.lanes),
            nodes=tuple(self.nodes),
            edges=tuple(self.edges),
            columns=self.columns,
            notes=tuple(self.notes),
        )


def shapes_of(part: Part, with_input: bool = True) -> tuple[str, ...]:
    """What goes in and what comes out, in the record's shapes."""
    return (*((part.input,) if with_input else ()), f"-> {part.output}")
