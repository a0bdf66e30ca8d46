"""What `show` tells of a system: its five modules with shapes, tokens, parameters, stages and memory.

The module is built on the meta device, so a drawing needs neither weights nor memory, at any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from polymodal.checkpoints.record import SLOTS, Part
from polymodal.errors import ConfigError
from polymodal.systems import System, Variant

if TYPE_CHECKING:
    from rich.console import RenderableType

BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A part with the numbers counted in the built module."""

    part: Part
    parameters: int


@dataclass(frozen=True, kw_only=True)
class StageShare:
    """How many parameters one training stage changes, and their share of the whole (0 to 1).

    data: names of its sources.  absent: what the stage trains and this variant does not hold (a recipe makes the whole,
    a variant may be a part).  lora: prefixes whose linears get low-rank paths.  record: the whole stage.
    """

    name: str
    data: str
    train: tuple[str, ...]
    parameters: int
    share: float
    absent: tuple[str, ...] = ()
    objective: str = ""
    lora: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Everything `show` prints.

    parameters: of the whole, shared tensors once, parts beside the assembly included; other: below no part's prefix.
    chat_format: of a published folder, as `Model.chat_format` has it; None where it is not known without loading.
    """

    system: System
    variant: Variant
    boxes: tuple[Box, ...]
    stages: tuple[StageShare, ...]
    parameters: int
    other: int
    chat_format: str | None = None

    def lanes(self) -> list[str]:
        """The modalities in order of appearance, the backbone's own text lane left out."""
        return list(dict.fromkeys(box.part.modality for box in self.boxes if box.part.slot != "backbone"))

    def slots(self) -> list[str]:
        """The kinds of module that this system has, in the order signals pass through them."""
        used = {box.part.slot for box in self.boxes}
        return [slot for slot in SLOTS if slot in used]

    def at(self, slot: str, lane: str | None = None) -> list[Box]:
        """The boxes of one kind of module, of one modality or of all."""
        return [box for box in self.boxes if box.part.slot == slot and (lane is None or box.part.modality == lane)]

    def layout(self) -> str | None:
        """Whose layout the checkpoint is in; None for systems of another kind."""
        return self.system.formats[self.variant.format].name if self.variant.config is not None else None

    def memory(self) -> dict[str, int]:
        """Bytes of the weights alone at each dtype; activations and the key/value cache come on top."""
        return {name: int(self.parameters * size) for name, size in BYTES.items()}

    def as_dict(self) -> dict[str, Any]:
        """Stable keys for `--json`."""
        return {
            "id": self.system.id,
            "variant": self.variant.name,
            "layout": self.layout(),
            "chat_format": self.chat_format,
            "parameters": self.parameters,
            "parts": [asdict(replace(box.part, parameters=box.parameters)) for box in self.boxes],
            "other_parameters": self.other,
            "stages": [asdict(stage) for stage in self.stages],
            "variants": [
                {"name": each.name, "parameters": each.parameters, "difference_to": each.difference_to}
                for each in self.system.variants
            ],
            "memory_bytes": self.memory(),
        }


def draw(system: System, variant: Variant) -> Drawing:
    """Build on the meta device and count; raises ConfigError when a part or a stage names no parameter."""
    from polymodal.train.parameters import trained_numbers
    from polymodal.train.recipe import as_dict
    from polymodal.weights.build import build_empty

    module = build_empty(lambda: system.module(variant))
    sizes = {name: tensor.numel() for name, tensor in module.named_parameters()}
    system.check_recipe(sizes)
    boxes = tuple(_box(sizes, part) for part in system.drawing(variant))
    total = sum(sizes.values()) + sum(box.parameters for box in boxes if not box.part.prefix)
    stages = []
    for stage in system.recipe:
        trained, absent = trained_numbers(module, stage)
        data = "; ".join(source.name for source in stage.data) or "not published"
        stages.append(StageShare(name=stage.name, data=data, train=stage.train, parameters=trained,
                                 share=trained / total if total else 0.0, absent=absent,
                                 objective=stage.objective.name, lora=tuple(stage.lora),
                                 record=as_dict(stage)))  # fmt: skip
    covered = {name for box in boxes if box.part.prefix for name in _names(sizes, box.part.prefix)}
    other = sum(size for name, size in sizes.items() if name not in covered)
    return Drawing(system=system, variant=variant, boxes=boxes, stages=tuple(stages), parameters=total, other=other)


def _box(sizes: dict[str, int], part: Part) -> Box:
    if not part.prefix:
        return Box(part=part, parameters=part.parameters)
    return Box(part=part, parameters=sum(sizes[name] for name in _names(sizes, part.prefix)))


def _below(sizes: dict[str, int], prefix: str) -> list[str]:
    from polymodal.train.recipe import below

    return [name for name in sizes if below(name, prefix)]


def _names(sizes: dict[str, int], prefix: str) -> list[str]:
    found = _below(sizes, prefix)
    if not found:
        tops = sorted({".".join(name.split(".")[:2]) for name in sizes})
        has = ", ".join(tops) or "no parameters"
        raise ConfigError(f"'{prefix}' names no parameter of the built model; it has {has}")
    return found


def render(drawing: Drawing) -> RenderableType:
    """The drawing for a terminal: one column per kind of module, one row per modality."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from polymodal.cli.output import human_bytes
    from polymodal.printable import human_count

    system, variant = drawing.system, drawing.variant
    title = Text.assemble((f"{system.id}:{variant.name}", "bold"), f"  {human_count(drawing.parameters)} parameters")
    about = f"{', '.join(system.aliases)} ({system.year}), fusion {'+'.join(system.fusion) or '-'}, {system.assembly}"
    modules = Table(show_lines=True)
    for slot in drawing.slots():
        modules.add_column(slot)
    for row, lane in enumerate(drawing.lanes() or ["text"]):
        cells = []
        for slot in drawing.slots():
            # The backbone belongs to every lane; it is written once, in the first row.
            boxes = drawing.at(slot, None if slot == "backbone" else lane)
            cells.append("\n".join(map(cell, boxes)) if slot != "backbone" or row == 0 else "  (the same)")
        modules.add_row(*cells)
    lines: list[RenderableType] = [title, Text(about), Text(system.headline), modules]
    if len(system.variants) > 1:
        lines.insert(3, Text(f"variants: {', '.join(map(size_of, system.variants))}"))
    if drawing.layout() is not None:
        lines.insert(2, Text(f"checkpoint: {drawing.layout()}{written_as(drawing)}"))
    if drawing.other:
        lines.append(Text(f"outside these parts: {human_count(drawing.other)} parameters"))
    if drawing.stages:
        stages = Table("stage", "trains", "parameters", "share of the whole", "data")
        for stage in drawing.stages:
            share, count = f"{100 * stage.share:.2f} %", human_count(stage.parameters)
            named = (*((each, each) for each in stage.train), *((each, f"{each} (LoRA)") for each in stage.lora))
            trains = ", ".join(f"({words})" if each in stage.absent else words for each, words in named)
            stages.add_row(stage.name, trains, count, share, stage.data)
        if any(stage.absent for stage in drawing.stages):
            stages.caption = "(in brackets: trained by the recipe, not part of this variant)"
        lines.append(stages)
    sizes = ", ".join(f"{name} {human_bytes(size)}" for name, size in drawing.memory().items())
    lines.append(Text(f"memory of the weights: {sizes}"))
    return Group(*lines)


def written_as(drawing: Drawing) -> str:
    """Whose format conversations are written in."""
    own = drawing.chat_format == drawing.system.id
    return f", chat format: {drawing.chat_format}{' (its own)' if own else ''}" if drawing.chat_format else ""


def size_of(variant: Variant) -> str:
    """A variant in few words: "7b (7.1B)"."""
    from polymodal.printable import human_count

    lacking = f", differences to {variant.difference_to}" if variant.difference_to else ""
    return f"{variant.name} ({human_count(variant.parameters)}{lacking})"


def cell(box: Box) -> str:
    """The words inside one box."""
    from polymodal.printable import human_count

    part = box.part
    size = f"  {human_count(box.parameters)}" if box.parameters or part.prefix else ""  # a caller's own has none
    lines = [f"{part.name}{size}", part.input, f"-> {part.output}"]
    if part.tokens is not None:
        lines.append(f"{part.tokens} tokens per item")
    return "\n".join(lines)
