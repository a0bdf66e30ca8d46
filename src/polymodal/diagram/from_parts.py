"""Pictures of systems whose module is of no known kind, and of agents: the boxes of the record, in their lanes."""

from __future__ import annotations

from itertools import pairwise

from polymodal.checkpoints.record import SLOTS
from polymodal.diagram.graph import Kind, Node
from polymodal.diagram.sketch import Sketch, shapes_of
from polymodal.train.recipe import below

KINDS: dict[str, Kind] = {"encoder": "encoder", "connector": "connector", "backbone": "head", "generator": "generator",
                          "output connector": "connector", "tool": "tool"}  # fmt: skip
ORDER: dict[str, int] = {slot: index for index, slot in enumerate(SLOTS)}


def draw_parts(sketch: Sketch) -> None:
    """Fills the sketch from `Part`s alone: each lane runs through its modules, a backbone stands beside all lanes."""
    own = [part.modality for part in sketch.parts if part.slot != "backbone"]
    _draw_inputs(sketch, own)
    backbones = sum(part.slot == "backbone" for part in sketch.parts)
    for index, part in enumerate(sketch.parts):
        names = tuple(name for name in sketch.parameters.sizes if part.prefix and below(name, part.prefix))
        size = (sketch.size(names),) if names else ()
        beside = tuple(sketch.lanes) if part.slot == "backbone" and backbones == 1 else (part.modality,)
        tokens = () if part.tokens is None else (f"{part.tokens} tokens per item",)
        sketch.add(Node(key=f"part.{index}", kind=KINDS[part.slot], column=part.slot, lanes=beside, title=part.name,
                        lines=(*size, *shapes_of(part), *tokens), names=names, modality=part.modality))  # fmt: skip
    if not sketch.parts:
        sketch.module_node(sketch.module, key="part.0", kind="head", column="backbone", lanes=tuple(sketch.lanes))
    for lane in sketch.lanes:
        _connect_lane(sketch, lane)
    _connect_rest(sketch)
    _connect_outputs(sketch)


def draw_agent(sketch: Sketch) -> None:
    """An agent beside all lanes, and the tools that it calls in a lane of their own."""
    system = sketch.system
    _draw_inputs(sketch, [])
    input_lanes = list(sketch.lanes)
    sketch.lanes += ["tools"] if sketch.parts else []
    sketch.columns["backbone"] = "agent"
    sketch.add(Node(key="part.0", kind="head", column="backbone", lanes=tuple(sketch.lanes), title=system.aliases[0],
                    lines=("plans, and calls its tools",) if sketch.parts else ()))  # fmt: skip
    for lane in input_lanes:
        if lane in system.inputs:
            sketch.connect(f"input.{lane}", "part.0", lane)
    for index, part in enumerate(sketch.parts):
        sketch.add(Node(key=f"tool.{index}", kind="tool", column="tool", lanes=("tools",), title=part.name,
                        lines=shapes_of(part), modality=part.modality))  # fmt: skip
        sketch.connect("part.0", f"tool.{index}", part.modality)
    for name in system.outputs:
        sketch.output(name, "part.0", name if name in input_lanes else input_lanes[-1], name)


def _draw_inputs(sketch: Sketch, more: list[str]) -> None:
    """The lanes, text last, and the inputs; more: lanes of modules without an input."""
    lanes = dict.fromkeys([*sketch.system.inputs, *more]) or {"text": None}
    sketch.lanes = sorted(lanes, key=lambda lane: lane == "text")
    for name in sketch.system.inputs:
        sketch.input(name)


def _connect_lane(sketch: Sketch, lane: str) -> None:
    """From the input through the modules of the lane, in the order of the slots."""
    stops = sorted((node for node in sketch.nodes if node.key.startswith("part.") and lane in node.lanes),
                   key=lambda node: ORDER[node.column])  # fmt: skip
    inputs = [node.key for node in sketch.nodes if node.key == f"input.{lane}"]
    for first, second in pairwise([*inputs, *(node.key for node in stops)]):
        sketch.connect(first, second, lane)


def _connect_rest(sketch: Sketch) -> None:
    """Inputs without a module in their lane enter the first modules of all, and modules that nothing enters yet are
    entered by those of the slot before, or by the inputs."""
    modules = sorted(
        (node for node in sketch.nodes if node.key.startswith("part.")), key=lambda node: ORDER[node.column]
    )
    inputs = [node for node in sketch.nodes if node.kind == "input"]
    left = {edge.source for edge in sketch.edges}
    first = [node for node in modules if node.column == modules[0].column]
    for each in (node for node in inputs if node.key not in left):
        for module in first:
            sketch.connect(each.key, module.key, each.modality)
    for module in modules:
        if module.key not in {edge.target for edge in sketch.edges}:
            before = [node for node in modules if ORDER[node.column] < ORDER[module.column]]
            for each in (before or inputs)[-1:]:
                sketch.connect(each.key, module.key, each.modality)


def _connect_outputs(sketch: Sketch) -> None:
    """What comes out: of the last module of its lane, else of the last module of all."""
    modules = [node for node in sketch.nodes if node.key.startswith("part.")]
    for name in sketch.system.outputs:
        lane = name if name in sketch.lanes else sketch.lanes[-1]
        here = [node for node in modules if lane in node.lanes] or modules
        last = max(here, key=lambda node: ORDER[node.column])
        sketch.output(name, last.key, lane, name)
