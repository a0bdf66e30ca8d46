"""`plan(name)`: memory and time of every stage of a recipe on a machine, before anything is downloaded or trained.

    plan("llava-1.5", machine=Machine(devices=8, rate=790e12, source="..."), stage="instruct") -> [StagePlan]

Sizes are those of the variant, built on the meta device; lengths and batches those that the stage published.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from polymodal.api.load import look
from polymodal.errors import UnknownName
from polymodal.systems import System, Variant
from polymodal.train.plan import DEFAULT_LENGTH, ORDER, Machine, StagePlan, Unit
from polymodal.train.plan import plan as plan_stage
from polymodal.train.recipe import Stage
from polymodal.weights.build import build_empty


def plan(name: str, *, machine: Machine, stage: str | None = None) -> list[StagePlan]:
    """Of one stage, or of all.  name: an id, id:variant, a checkpoint folder or a system file.

    Raises UnknownName for a stage that the recipe does not have.
    """
    system, variant = look(name)
    chosen = [each for each in system.recipe if stage in (None, each.name)]
    if not chosen and stage is not None:
        has = ", ".join(each.name for each in system.recipe) or "none"
        raise UnknownName(f"{system.id} has no stage {stage!r}; it has {has}")
    module = build_empty(lambda: system.module(variant))
    return [plan_stage(module, each, units(system, variant, module, each, machine), machine) for each in chosen]


def units(system: System, variant: Variant, module: nn.Module, stage: Stage, machine: Machine) -> Sequence[Unit]:
    """The parts of the drawing that lie in the module, with the tokens of one sample: one item of each modality."""
    length = machine.length or stage.budget.max_length or DEFAULT_LENGTH
    paths = {path for path, _ in module.named_modules()}
    found = []
    drawn = [each for each in system.drawing(variant) if each.prefix in paths and each.prefix]
    for part in drawn:
        tokens = part.tokens
        if part.slot == "backbone" or part.modality == "text":
            tokens = length
        elif part.slot == "connector":  # it reads all that its encoder gives
            tokens = max((each.tokens or 0 for each in drawn if each.modality == part.modality), default=0) or None
        keys = (tokens or 0) / (2 if part.slot == "backbone" else 1)
        found.append(Unit(path=part.prefix, slot=part.slot, modality=part.modality, tokens=tokens, keys=keys))
    return [each for each in found if each.slot in ORDER]
