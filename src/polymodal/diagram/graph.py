"""What a picture shows, without coordinates: nodes in columns (modules) and lanes (modalities), and arrows.

Columns go from left to right in the order of `COLUMNS`, lanes from top to bottom.  A node that spans several lanes
stands beside all of them.  `names` of nodes, rows and branches are the parameters they hold, by which their size is
counted and a training stage is coloured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["input", "encoder", "connector", "sequence", "backbone", "space", "head", "generator", "output", "tool"]
State = Literal["", "trained", "partly", "lora", "frozen"]

COLUMNS = {
    "input": "inputs",
    "tokenizer": "tokenizer",
    "encoder": "modality encoders",
    "connector": "input projectors",
    "space": "joint space",
    "sequence": "input sequence",
    "backbone": "backbone",
    "head": "heads",
    "output connector": "output projectors",
    "generator": "modality generators",
    "tool": "tools",
    "output": "outputs",
}
"""Names of the columns, left to right; a column without nodes takes no space."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One of the alternatives inside a row, drawn side by side: the expert of a modality, a part of a vocabulary.

    share: its part of the row's width, 0 for equal parts.
    """

    text: str
    modality: str = "text"
    names: tuple[str, ...] = ()
    share: float = 0.0
    state: State = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer inside a backbone, with its branches; modality: set where it belongs to one."""

    key: str
    title: str
    text: str = ""
    modality: str = ""
    branches: tuple[Branch, ...] = ()
    names: tuple[str, ...] = ()
    state: State = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that repeat together ("x 32"); repeat empty: they are there once and get no frame."""

    rows: tuple[Row, ...]
    repeat: str = ""
    modality: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A run of positions of the input sequence.  discrete: ids of the vocabulary; otherwise continuous features.

    lane: beside which lane it stands.  count: how many positions one item takes, None where that varies."""

    key: str
    text: str
    modality: str
    lane: str
    discrete: bool = False
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Node:
    """One box.  title, lines: its words.  groups: inside a backbone.  cells: of a sequence.  matrix: draws the
    similarities of a joint space.  faint: not part of this variant, or outside of the model.

    column: where it stands; kind: its colour.
    """

    key: str
    kind: Kind
    column: str
    lanes: tuple[str, ...]
    title: str
    lines: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    cells: tuple[Cell, ...] = ()
    modality: str = ""
    names: tuple[str, ...] = ()
    matrix: tuple[str, str] | None = None
    faint: bool = False
    state: State = ""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An arrow between nodes, rows or cells, by key; modality: its colour."""

    source: str
    target: str
    modality: str = ""
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One system.  title, subtitle, badge, stage, notes: words above and below the picture; columns: other names."""

    title: str
    subtitle: str
    badge: str = ""
    lanes: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    columns: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stage: str = ""

    def column_name(self, column: str) -> str:
        """The heading of a column."""
        return self.columns.get(column, COLUMNS[column])

    def rows(self) -> Iterator[Row]:
        """Every row of every backbone."""
        for node in self.nodes:
            for group in node.groups:
                yield from group.rows
