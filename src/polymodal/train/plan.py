"""What a stage will need: memory of each device, operations and time, from a module on the meta device.

    operations of a step = tokens * weights * (2 forward, + 2 where gradients pass, + 2 for what trains)  + attention
    memory  = parameters + gradients + optimiser (over all devices) + what a micro batch keeps for its backward pass
    seconds = operations / (devices * operations a second of one * efficiency)

Parameters, gradients and moments are float32, as the loop has them; under bfloat16 its copies of the weights stay
until the backward pass.  Several devices share them out (parallel.py), and hold one block gathered, and whatever lies
outside of blocks.
Traps: estimates.  Time counts matrix products and attention alone at an efficiency that is assumed, no reading of data
and no exchange between devices; memory has no workspace of libraries and no fragmentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from polymodal.errors import ConfigError
from polymodal.nn.lora import LoRALinear
from polymodal.train import cost
from polymodal.train.cost import CONVOLUTIONS, Kept, Learning
from polymodal.train.optimizer import SGD, OptimizerConfig
from polymodal.train.parallel import own_blocks, parts
from polymodal.train.parameters import trained_sizes
from polymodal.train.recipe import Stage, below

ORDER = ("encoder", "connector", "backbone", "output connector", "generator")
"""How signals, and therefore gradients, pass parts."""
DEFAULT_LENGTH = 2048
MOMENTS: Mapping[type[OptimizerConfig], int] = {SGD: 1}
"""Numbers that an optimiser keeps of each that trains; 2 where it is not named."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part that the plan counts.  tokens: that run through it of one sample, None where that is not known.

    keys: how many tokens one attends to on the average.
    """

    path: str
    slot: str
    modality: str
    tokens: int | None
    keys: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """devices: that share the run.  rate: operations a second of one in matrix products at 16 bits, float32_rate: in
    float32.  efficiency: the share of them that training reaches, assumed.  micro_batch: samples a pass of one device.
    length: tokens of a sample; None: what the stage published.  source: where the rates are from.
    """

    devices: int
    rate: float
    float32_rate: float
    source: str
    efficiency: float = 0.4
    micro_batch: int = 1
    length: int | None = None

    def __post_init__(self) -> None:
        for name, wrong in (
            ("devices", self.devices < 1),
            ("rate", min(self.rate, self.float32_rate) <= 0),
            ("efficiency", not 0 < self.efficiency <= 1),
            ("micro_batch", self.micro_batch < 1),
            ("length", self.length is not None and self.length < 1),
        ):
            if wrong:
                raise ConfigError(f"plan: {name} cannot be {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """memory: bytes of one device by what holds them; checkpointed: the same with activation checkpointing.

    operations, seconds: of an optimiser step; hours: of the stage; checkpointed_hours: with activation checkpointing of
    all blocks.  None where the stage has no batch or no steps.
    """

    stage: str
    parameters: int
    trained: int
    precision: str
    batch: int | None
    steps: int | None
    length: int
    memory: dict[str, int]
    checkpointed: dict[str, int]
    operations: float | None
    seconds: float | None
    hours: float | None
    checkpointed_hours: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Stable keys for `--json`, with the sums of both memories."""
        totals = {"total": sum(self.memory.values()), "checkpointed_total": sum(self.checkpointed.values())}
        return {**asdict(self), "notes": list(self.notes), **totals}


def plan(model: nn.Module, stage: Stage, units: Sequence[Unit], machine: Machine) -> StagePlan:
    """The plan of one stage of a model that is not prepared for it, on the meta device or not."""
    learning = Learning.of(model, stage)
    counted = [unit for unit in units if unit.tokens]
    passing = [unit for unit in counted if passes(unit, units, learning)]
    half = stage.budget.precision not in (None, "float32")
    memory = held(model, stage, machine)
    checkpointed = dict(memory)
    if half:
        pairs = [cost.weights(model.get_submodule(unit.path), unit.path, learning) for unit in passing]
        # Blocks that are computed again make new copies; those of what trains are kept for the whole forward pass.
        memory["copies at 16 bits"], checkpointed["copies at 16 bits"] = (
            int(2 * sum(p[i] for p in pairs)) for i in (0, 1)
        )
    size, rows = (2 if half else 4), machine.micro_batch
    kept = [kept_of(model, unit, learning) for unit in passing]
    whole, inputs, blocks = (
        [int(rows * (each[i].narrow * size + each[i].wide * 4)) for each in kept] for i in range(3)
    )
    logits = sum(rows * (unit.tokens or 0) * vocabulary(model.get_submodule(unit.path)) * 8 for unit in passing)
    # Logits are gone before the first block is computed again, and one block is gone before the next.
    lean = sum(inputs) + max(0, max(blocks, default=0) - logits)
    forward, backward, again = operations(model, counted, passing, learning)
    batch, steps = stage.budget.batch, steps_of(stage)
    # A method that multiplies no matrices has no time to be told.
    step = None if batch is None or not forward + backward else batch * (forward + backward)
    rate = machine.devices * (machine.rate if half else machine.float32_rate) * machine.efficiency
    hours = None if step is None or steps is None else steps * step / rate / 3600
    return StagePlan(
        stage=stage.name,
        parameters=numbers(model),
        trained=sum(trained_sizes(model, stage)[0].values()),
        precision=stage.budget.precision or "float32",
        batch=batch,
        steps=steps,
        length=length_of(units),
        memory={**memory, "activations": sum(whole), "logits": logits},
        checkpointed={**checkpointed, "activations": lean, "logits": logits},
        operations=step,
        seconds=None if step is None else step / rate,
        hours=hours,
        checkpointed_hours=None if hours is None else hours * (1 + again / (forward + backward)),
        notes=tuple(notes(model, stage, units)),
    )


def passes(unit: Unit, units: Sequence[Unit], learning: Learning) -> bool:
    """Whether gradients pass a part: something in it trains, or in a part before it."""
    place = ORDER.index(unit.slot)
    before = [
        each.path
        for each in units
        if ORDER.index(each.slot) < place and (unit.slot != "connector" or each.modality == unit.modality)
    ]
    return any(below(name, path) for path in (unit.path, *before) for name in learning.names)


def held(model: nn.Module, stage: Stage, machine: Machine) -> dict[str, int]:
    """Bytes that stay the whole run on one device: float32, shared out among all."""
    sizes, devices = trained_sizes(model, stage)[0], machine.devices
    total, trained = numbers(model), sum(sizes.values())
    low_rank = sum(size for name, size in sizes.items() if name.endswith(".lora") and name not in existing(model))
    found = {
        "parameters": 4 * (total + low_rank) // devices,
        "gradients": 4 * trained // devices,
        "optimiser": 4 * MOMENTS.get(type(stage.optimizer), 2) * trained // devices,
    }
    if stage.ema is not None:
        found["running mean"] = 4 * trained // devices
    if devices > 1:
        blocks = [numbers(block) for part in parts(model) for block in own_blocks(part)]
        largest = max(blocks, default=0)
        # One block computes while the next is fetched; a gradient is whole before it is shared out.
        found["gathered"] = 4 * (total - sum(blocks) + 2 * largest + (largest if trained else 0))
    return found


def existing(model: nn.Module) -> set[str]:
    """Low-rank paths that a model has already, as `trained_sizes` names them."""
    return {f"{path}.lora" for path, part in model.named_modules() if isinstance(part, LoRALinear)}


def kept_of(model: nn.Module, unit: Unit, learning: Learning) -> tuple[Kept, Kept, Kept]:
    """What a sample leaves in a part for the backward pass: all of it; what is left where blocks are computed again,
    and what the largest block then needs."""
    part, tokens = model.get_submodule(unit.path), float(unit.tokens or 0)
    paths = {id(each): f"{unit.path}.{path}" if path else unit.path for path, each in part.named_modules()}
    blocks = [cost.kept(block, paths[id(block)], learning) for block in own_blocks(part)]
    inputs = [Kept(wide=cost.block_width(block)) for block in own_blocks(part)]
    whole = cost.kept(part, unit.path, learning)
    lean = whole + sum(blocks, Kept()) * -1.0 + sum(inputs, Kept())
    largest = max(blocks, key=lambda each: each.narrow + each.wide, default=Kept())
    return whole * tokens, lean * tokens, largest * tokens


def operations(
    model: nn.Module, counted: Sequence[Unit], passing: Sequence[Unit], learning: Learning
) -> tuple[float, float, float]:
    """Of a sample: forward, backward, and what activation checkpointing computes again."""
    forward, backward, again = 0.0, 0.0, 0.0
    for unit in counted:
        part, tokens = model.get_submodule(unit.path), float(unit.tokens or 0)
        every, trained = cost.weights(part, unit.path, learning)
        every += tied_head(part)
        low = cost.low_rank(part, unit.path, learning)
        attention = 4 * cost.scores(part) * unit.keys
        once = tokens * (2 * (every + low) + attention)
        forward += once
        if unit in passing:
            backward += once + tokens * (2 * (trained + low) + attention)
            again += once if own_blocks(part) else 0.0
    return forward, backward, again


def vocabulary(part: nn.Module) -> int:
    """How many words a part chooses from; 0 for one without a vocabulary."""
    table = getattr(part, "embed_tokens", None)
    return int(table.num_embeddings) if isinstance(table, nn.Embedding) else 0


def tied_head(part: nn.Module) -> int:
    """Numbers of the embedding, where it is the head, too."""
    table = getattr(part, "embed_tokens", None)
    return table.weight.numel() if isinstance(table, nn.Embedding) and getattr(part, "lm_head", part) is None else 0


def numbers(part: nn.Module) -> int:
    """Of all parameters of a part."""
    return sum(each.numel() for each in part.parameters())


def length_of(units: Sequence[Unit]) -> int:
    """Tokens of a sample in the backbone, or in the longest part of a model without one."""
    lengths = [unit.tokens or 0 for unit in units if unit.slot == "backbone"] or [unit.tokens or 0 for unit in units]
    return max(lengths, default=0)


def steps_of(stage: Stage) -> int | None:
    """Steps of the stage, None where they were not published."""
    try:
        return stage.steps
    except ConfigError:
        return None


def notes(model: nn.Module, stage: Stage, units: Sequence[Unit]) -> Iterator[str]:
    """What the figures leave out or assume."""
    if uncounted := [unit.path for unit in units if not unit.tokens]:
        yield f"how many tokens pass {', '.join(uncounted)} is not known: no time and no activations of it"
    for unit in units:
        convolutions = [each for each in model.get_submodule(unit.path).modules() if isinstance(each, CONVOLUTIONS)]
        if sum(map(numbers, convolutions)) > 0.2 * max(1, numbers(model.get_submodule(unit.path))):
            yield f"{unit.path} is made of convolutions, which cost more than is counted"
    if absent := trained_sizes(model, stage)[1]:
        yield f"trained by the recipe, not part of this variant: {', '.join(absent)}"
    if stage.budget.precision is None:
        yield "its precision is not published: float32"
    if stage.budget.batch is None:
        yield "its batch is not published: no time"
    elif steps_of(stage) is None:
        yield "its steps are not published: no hours"
