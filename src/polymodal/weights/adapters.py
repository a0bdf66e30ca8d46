"""PEFT adapters on a module whose parameters have other names: attach, detach, merge.

    Adapter (names of the library's class)  --key table of the base-->  low-rank changes of our linears and embeddings
    attach(module, adapter, tables)   the forward pass has the adapter, gradients reach it
    detach                            the weights are, bit for bit, what they were
    merge                             the weights hold the adapter, rounded once from float32

The tables are those of the base checkpoint, one for each spelling of its names; the one that knows every name of the
adapter is used.  Whole tensors of the folder (biases, `modules_to_save`) take the place of ours while it is attached.
Traps: a head that is tied to the embedding stays as it was when PEFT replaces or merges the embedding alone; here it
would change with it, so that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, PolymodalError, WeightsError
from polymodal.nn.lora import ADAPTED, LowRank, adapt, lora_changes, merge_lora, remove_lora, trains
from polymodal.nn.quantise import QUANTISED
from polymodal.weights.adapter_files import Adapter
from polymodal.weights.keytable import KeyTable
from polymodal.weights.load import shared_names
from polymodal.weights.low_rank_rows import carry, row_of_linears
from polymodal.weights.report import Use, nearest_row
from polymodal.weights.rows import Row


@dataclass(frozen=True, kw_only=True, eq=False)
class Attached:
    """An adapter that a module has.

    originals: what its whole tensors stand in for, by our names; trainable: which of them trained before.
    """

    name: str
    adapter: Adapter
    table: KeyTable
    originals: Mapping[str, Tensor] = field(default_factory=dict)
    trainable: frozenset[str] = frozenset()


def own_names(module: nn.Module) -> KeyTable:
    """The table of a module whose published names are its own."""
    return KeyTable.of({name: name for name in _bare(module)})


def attach(
    module: nn.Module,
    adapter: Adapter,
    tables: Sequence[KeyTable],
    *,
    name: str = "adapter",
    weight: float = 1.0,
    beside: Sequence[Attached] = (),
) -> Attached:
    """Give the module the adapter under a name of ours (no dots); weight: of its low-rank part; beside: what it has.

    Raises WeightsError or ConfigError, with the module as it was, for what does not fit.
    """
    if lora_changes(module, name) or any(each.name == name for each in beside):
        raise ConfigError(f"the model has an adapter {name!r} already; detach it first")
    table = _table_for(adapter, tables)
    changes = dict(_changes(module, adapter, table))
    values = _values(module, adapter, table)
    if weight != 1.0 and values:
        raise ConfigError(f"{adapter.folder} replaces {min(values)!r} whole, so its weight must be 1; found {weight}")
    given = {target for name in adapter.tensors if (use := table.use_of(name)) for target in use.targets}
    for other in beside:
        for target in given & other.originals.keys():
            folders = f"{adapter.folder} and {other.adapter.folder}"
            raise ConfigError(f"{folders} both replace {target!r}; attach one of them")
    originals: dict[str, Tensor] = {}
    trainable = frozenset(target for target in values if trains(*_owner_and_leaf(module, target)))
    try:
        for target, value in values.items():
            originals[target] = _put(module, target, nn.Parameter(value, value.is_floating_point()))
        for path, change in changes.items():
            part = module.get_submodule(path)
            adapt(part, _beside(part, change, weight), name, path)
    except PolymodalError as error:
        detach(module, Attached(name=name, adapter=adapter, table=table, originals=originals, trainable=trainable))
        raise type(error)(f"{adapter.folder}: {error}") from error
    for target in originals:
        module.get_parameter(target).requires_grad_(values[target].is_floating_point())
    return Attached(name=name, adapter=adapter, table=table, originals=originals, trainable=trainable)


def detach(module: nn.Module, attached: Attached) -> None:
    """Take the adapter off; the weights are what they were, wherever the module has moved since."""
    remove_lora(module, attached.name)
    for target, original in attached.originals.items():
        original.data = original.data.to(module.get_parameter(target))
        _restore(module, target, original, attached)


@torch.no_grad()
def merge(module: nn.Module, attached: Attached) -> None:
    """Write the adapter into the weights and take it off.  Raises ConfigError for an embedding that is the head too."""
    for path in lora_changes(module, attached.name):
        if _tied(module, f"{path}.weight"):
            raise ConfigError(f"{path!r} is the head too, which the adapter does not change; it cannot be merged")
    merge_lora(module, attached.name)
    for target, original in attached.originals.items():
        original.data = module.get_parameter(target).data
        _restore(module, target, original, attached)


def _table_for(adapter: Adapter, tables: Sequence[KeyTable]) -> KeyTable:
    """The spelling that knows all of the adapter's names; raises WeightsError with the first that the nearest lacks."""
    names = [*(f"{module}.weight" for module in adapter.changes), *adapter.tensors]
    lacking = [[name for name in names if table.use_of(name) is None] for table in tables]
    best = min(range(len(tables)), key=lambda i: len(lacking[i]))
    if lacking[best]:
        first = lacking[best][0]
        near = nearest_row(first, tables[best].rows)
        raise WeightsError(
            f"{adapter.folder}: the model has no {first.removesuffix('.weight')!r}, which the adapter changes "
            f"({len(lacking[best])} of {len(names)} such names){near}; is it the adapter of another model?"
        )
    return tables[best]


def _changes(module: nn.Module, adapter: Adapter, table: KeyTable) -> Iterator[tuple[str, LowRank]]:
    """By our paths, what the adapter changes."""
    uses: dict[tuple[str, ...], Use] = {}
    for theirs in adapter.changes:
        use = table.use_of(f"{theirs}.weight")
        assert use is not None
        if not use.targets:
            raise WeightsError(f"{adapter.folder}: {theirs!r} has an adapter, but is unused or tied in this model")
        uses[use.targets] = use
    for use in uses.values():
        row, paths = table.rows[use.row], [target.removesuffix(".weight") for target in use.targets]
        shapes = []
        for target in use.targets:
            part = _owner(module, target)
            if not target.endswith(".weight") or not isinstance(part, (nn.Linear, nn.Embedding, *QUANTISED)):
                raise WeightsError(
                    f"{adapter.folder}: {use.sources[0]!r} is {target!r} here, which is neither a linear nor an "
                    "embedding and takes no adapter"
                )
            shapes.append(torch.Size(part.shape) if isinstance(part, QUANTISED) else part.weight.shape)
        modules = [source.removesuffix(".weight") for source in use.sources]
        embedding = isinstance(part, nn.Embedding)
        for path in modules:
            if path in adapter.changes and (path in adapter.embeddings) != embedding:
                kinds = ("an embedding", "a linear") if embedding else ("a linear", "an embedding")
                raise WeightsError(f"{adapter.folder}: {path!r} is {kinds[0]} here, its adapter is that of {kinds[1]}")
        changes = [adapter.changes.get(path) for path in modules]
        try:
            found = carry(row, changes, _source_shapes(row, shapes) if len(modules) > 1 else shapes, embedding)
        except (ConfigError, WeightsError) as error:
            raise WeightsError(f"{adapter.folder}: {use.sources[0]!r}: {error}") from error
        yield from zip(paths, found, strict=True)


def _source_shapes(row: Row, shapes: Sequence[torch.Size]) -> list[torch.Size]:
    """Shapes of a row's sources from those of its targets."""
    return [x.shape for x in row_of_linears(row).inverse().convert([torch.empty(s, device="meta") for s in shapes])]


def _values(module: nn.Module, adapter: Adapter, table: KeyTable) -> dict[str, Tensor]:
    """By our names, the whole tensors that differ from the module's own."""
    uses = {use.targets: use for name in adapter.tensors if (use := table.use_of(name)) is not None}
    for name, tensor in adapter.tensors.items():
        use = table.use_of(name)
        # Biases of parts that the system has no use for come with bias="all", and a tied head with its embedding.
        again = any(other != name and torch.equal(tensor, x) for other, x in adapter.tensors.items())
        if use is not None and not use.targets and not name.endswith(".bias") and not again:
            raise WeightsError(f"{adapter.folder}: {name!r} is stored whole, but is unused or tied in this model")
    values: dict[str, Tensor] = {}
    for targets, use in uses.items():
        if not targets:
            continue
        row, own = table.rows[use.row], [tensor_of(module, target).detach() for target in targets]
        try:
            base = dict(zip(use.sources, row.inverse().convert(own), strict=True))
        except ConfigError as error:
            raise WeightsError(f"{adapter.folder}: {use.sources[0]!r} cannot be replaced: {error}") from error
        given = {name: adapter.tensors[name] for name in use.sources if name in adapter.tensors}
        for name, tensor in given.items():
            if tensor.shape != base[name].shape:
                shapes = f"has shape {list(tensor.shape)}, expected {list(base[name].shape)} as in the base"
                raise WeightsError(f"{adapter.folder}: {name!r} {shapes}")
        new = row.convert([given.get(name, base[name]).to(base[name]) for name in use.sources])
        for target, value, before in zip(targets, new, own, strict=True):
            if torch.equal(value, before):
                continue
            if not isinstance(tensor_of(module, target), nn.Parameter):
                raise WeightsError(f"{adapter.folder}: {use.sources[0]!r} is no parameter here; it cannot be replaced")
            if _tied(module, target):
                raise WeightsError(f"{adapter.folder}: {use.sources[0]!r} is tied in this model; it cannot be replaced")
            values[target] = value.clone()
    return values


def _beside(part: nn.Module, change: LowRank, weight: float) -> LowRank:
    """In memory of its own, where the part is; float32 beside a half-precision weight, as PEFT has it."""
    like: Any = part.weight
    dtype = torch.promote_types(torch.promote_types(change.a.dtype, like.dtype), torch.float32)

    def put(x: Tensor) -> Tensor:
        return x.detach().to(like.device, dtype, copy=True).contiguous()

    magnitude = None if change.magnitude is None else put(change.magnitude)
    return replace(change, a=put(change.a), b=put(change.b), magnitude=magnitude, scale=change.scale * weight)


def _tied(module: nn.Module, name: str) -> bool:
    """Whether a parameter is read elsewhere too: under a second name, or by a head without weights of its own."""
    if any(name in names for names in shared_names(module)):
        return True
    if not isinstance(_owner(module, name), nn.Embedding):
        return False
    owner = module.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
    headless: Any = getattr(owner, "lm_head", owner)
    return headless is None or getattr(module, "token_head", None) is not None


def _bare(module: nn.Module) -> list[str]:
    return [name for name in module.state_dict() if ".adapters." not in name]


def _owner(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name.rpartition(".")[0])


def _owner_and_leaf(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    return _owner(module, name), name.rpartition(".")[2]


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its dotted name."""
    found = getattr(*_owner_and_leaf(module, name))
    assert isinstance(found, Tensor)
    return found


def _put(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Set a parameter; returns the one that was there."""
    owner, leaf = _owner_and_leaf(module, name)
    before = getattr(owner, leaf)
    setattr(owner, leaf, tensor)
    return before


def _restore(module: nn.Module, name: str, original: Tensor, attached: Attached) -> None:
    """Put a parameter back; frozen while another adapter lies on its part."""
    _put(module, name, original)
    adapted = isinstance(_owner(module, name), ADAPTED)
    original.requires_grad_(name in attached.trainable and not adapted)
