"""Which parameters a stage trains, and at which rates.

    prepare(model, stage)           low-rank paths put in, everything but what trains frozen
    parameter_groups(model, stage)  the groups of its optimiser, each with `factor` of the stage's rate
    train_mode(model)               what does not train stays in evaluation mode

Traps: a low-rank path trains though `train` does not name it; its linear is frozen though `train` may name it; a
parameter under two names counts once, under its first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from polymodal.errors import ConfigError
from polymodal.nn.lora import LoRALinear, apply_lora
from polymodal.train.recipe import LayerDecay, LoRAConfig, Rate, Stage, below


def trainable(
    model: nn.Module, prefixes: Sequence[str], frozen: Sequence[str] = ()
) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters below `prefixes` and not below `frozen`; raises ConfigError for a prefix that names nothing."""
    named = list(model.named_parameters())
    for does, given in (("trains", prefixes), ("freezes", frozen)):
        for prefix in given:
            if not any(below(name, prefix) for name, _ in named):
                hint = nearest_names(prefix, [name for name, _ in named])
                raise ConfigError(f"stage {does} '{prefix}', which names no parameter; {hint}")
    for name, parameter in named:
        if any(below(name, prefix) for prefix in prefixes) and not any(below(name, prefix) for prefix in frozen):
            yield name, parameter


def freeze_except(model: nn.Module, prefixes: Sequence[str], frozen: Sequence[str] = ()) -> int:
    """Freeze all of `model` but the parameters below `prefixes`; returns how many numbers train."""
    return _only({id(parameter) for _, parameter in trainable(model, prefixes, frozen)}, model)


def unnamed_prefixes(stage: Stage, names: Collection[str]) -> list[tuple[str, str]]:
    """(what the stage does, prefix) of every prefix in a stage under which there is none of these parameters."""
    given = (
        ("trains", stage.train),
        ("freezes", stage.frozen),
        ("puts low-rank paths below", tuple(stage.lora)),
        ("has a rate for", tuple(rule.prefix for rule in stage.rates)),
        ("leaves undecayed", stage.optimizer.undecayed),
    )
    return [
        (does, prefix)
        for does, prefixes in given
        for prefix in prefixes
        if not any(below(name, prefix) for name in names)
    ]


def nearest_names(prefix: str, names: Iterable[str]) -> str:
    """What a prefix that names nothing may have meant, for a message: what there is, and up to three names like it."""
    parts = [name.split(".") for name in names]
    starts = sorted({".".join(part[: i + 1]) for part in parts for i in range(len(part))})
    near = difflib.get_close_matches(prefix, starts, n=3, cutoff=0.6)
    has = f"the model has {', '.join(sorted({part[0] for part in parts})) or 'no parameters'}"
    return f"{has}; nearest: {', '.join(near)}" if near else has


def prepare(model: nn.Module, stage: Stage) -> int:
    """Put in the stage's low-rank paths and freeze what it does not train; returns how many numbers train.

    Raises ConfigError for a prefix that names nothing, or a rank that was not published.
    """
    for prefix, config in stage.lora.items():
        linears = _linears(model, prefix)
        if not linears:
            hint = nearest_names(prefix, [path for path, part in model.named_modules() if isinstance(part, nn.Linear)])
            raise ConfigError(f"stage {stage.name}: lora names '{prefix}', below which there is no linear; {hint}")
        bare = [path for path, part in linears if not isinstance(part, LoRALinear)]
        if not bare:
            continue
        if config.rank is None or config.alpha is None:
            raise ConfigError(f"stage {stage.name}: the rank of its low-rank paths is not published; give lora=...")
        apply_lora(model, bare, config.rank, config.alpha, config.dropout, dora=config.dora)
    return _only({id(parameter) for _, parameter in trained(model, stage)}, model)


def trained(model: nn.Module, stage: Stage) -> list[tuple[str, nn.Parameter]]:
    """What a stage trains of a prepared model, by name."""
    adapted = {path: part for prefix in stage.lora for path, part in _linears(model, prefix)}
    chosen = {id(p) for _, p in trainable(model, stage.train, stage.frozen)}
    for part in adapted.values():
        own = {id(p) for p in part.parameters(recurse=False)}
        chosen = (chosen - own) | {id(p) for p in part.parameters() if id(p) not in own}
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in chosen]


def trained_numbers(model: nn.Module, stage: Stage) -> tuple[int, tuple[str, ...]]:
    """How many numbers a stage would train of a model that is not prepared, and prefixes that name nothing in it."""
    sizes, absent = trained_sizes(model, stage)
    return sum(sizes.values()), absent


def trained_sizes(model: nn.Module, stage: Stage) -> tuple[dict[str, int], tuple[str, ...]]:
    """By parameter, the numbers that a stage would train of a model that is not prepared ("<linear>.lora": of its
    low-rank path), and prefixes that name nothing in it."""
    absent = tuple(
        prefix
        for prefix in (*stage.train, *stage.lora)
        if not any(below(name, prefix) for name, _ in model.named_parameters())
    )
    present = [prefix for prefix in stage.train if prefix not in absent]
    sizes = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if any(below(name, prefix) for prefix in present) and not any(below(name, each) for each in stage.frozen)
    }
    paths = {path: (part, config) for prefix, config in stage.lora.items() for path, part in _linears(model, prefix)}
    for path, (part, config) in paths.items():
        own = {name: 0 for name in (f"{path}.weight", f"{path}.bias") if name in sizes}
        sizes |= own | {f"{path}.lora": _path_size(part, config)}
    return sizes, absent


def parameter_groups(model: nn.Module, stage: Stage, beside: Sequence[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Groups for `stage.optimizer.build`: params, lr, weight_decay, names, and factor, which multiplies `stage.rate`.

    Vectors and what `optimizer.undecayed` names have no weight decay.  beside: parameters of the objective's own
    (heads that only training uses).  Raises ConfigError where the rate was not published.
    """
    optimizer = stage.optimizer
    if optimizer.lr is None:
        raise ConfigError(f"stage {stage.name} has no published learning rate: give optimizer=...")
    every = [name for name, _ in model.named_parameters()]
    named = [*trained(model, stage), *((f"objective.{i}", parameter) for i, parameter in enumerate(beside))]
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        factor = rate_factor(name, stage.rates, every)
        plain = parameter.ndim <= 1 or any(below(name, prefix) for prefix in optimizer.undecayed)
        decay = 0.0 if plain else optimizer.weight_decay
        group = groups.setdefault(
            (factor, decay),
            {"params": [], "names": [], "lr": factor * optimizer.lr, "factor": factor, "weight_decay": decay},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def rate_factor(name: str, rates: Sequence[Rate], names: Sequence[str]) -> float:
    """By how much a parameter's rate differs from the stage's; names: of all parameters, for the number of blocks."""
    for rule in rates:
        if not below(name, rule.prefix):
            continue
        return _layer_factor(name, rule, names) if isinstance(rule, LayerDecay) else rule.factor
    return 1.0


def train_mode(model: nn.Module, mode: bool = True) -> None:
    """`model.train(mode)`, but a part of which no parameter learns stays in evaluation mode (dropout, batch norms).

    A part without parameters follows what holds it.
    """
    model.train(mode)
    if not mode:
        return
    for part in model.modules():
        own = list(part.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            part.eval()


def _layer_factor(name: str, rule: LayerDecay, names: Sequence[str]) -> float:
    block = re.compile(rf"{re.escape(rule.prefix)}\.{re.escape(rule.blocks)}\.(\d+)\.")
    depth = 1 + max((int(found[1]) for each in names if (found := block.match(each))), default=-1)
    if found := block.match(name):
        return float(rule.decay ** (depth - int(found[1])))
    early = any(below(name, f"{rule.prefix}.{each}") for each in rule.first)
    return float(rule.decay ** (depth + 1)) if early else 1.0


def _linears(model: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The linears below a prefix, those inside low-rank paths left out."""
    found = [(path, part) for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    outer = [path for path, part in found if isinstance(part, LoRALinear)]
    inside = {path for path, _ in found for other in outer if path.startswith(other + ".")}
    return [(path, part) for path, part in found if below(path, prefix) and path not in inside]


def _path_size(part: nn.Module, config: LoRAConfig) -> int:
    if isinstance(part, LoRALinear):
        return sum(p.numel() for p in part.parameters()) - sum(p.numel() for p in part.parameters(recurse=False))
    assert isinstance(part, nn.Linear)
    return (config.rank or 0) * (part.in_features + part.out_features) + part.out_features * config.dora


def _only(chosen: set[int], model: nn.Module) -> int:
    total = 0
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
        total += parameter.numel() if id(parameter) in chosen else 0
    return total
