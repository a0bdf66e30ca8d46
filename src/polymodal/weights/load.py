"""Filling a module from a weights file: everything is checked first, then tensors are copied one by one.

flow:  names and shapes against the table -> (materialise a module on the meta device) -> copy -> tied names checked

So a module is either filled completely or, when names or shapes do not fit, untouched; and beside the
module only one row's tensors are in memory.

Traps: parameters that are new and on the meta device have no initial values to keep, so a module with new
parameters is built on a real device.  A file may store tied tensors twice; the copies must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from polymodal.errors import WeightsError
from polymodal.weights.fetch import Progress, fetch
from polymodal.weights.keytable import KeyTable
from polymodal.weights.read import TensorFile, read, read_torch
from polymodal.weights.report import KeyReport
from polymodal.weights.source import Source

WHOLE = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool", "int", "uint")


def load_into(
    module: nn.Module,
    source_tensors: Mapping[str, Tensor],
    table: KeyTable,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> KeyReport:
    """Fill `module` in place and report what was used, dropped and left new.

    dtype: floating parameters and buffers are brought to it first; None keeps the module's own.
    device: where a module on the meta device comes to life (default the CPU).
    Raises WeightsError before anything is changed when names or shapes do not fit.
    """
    filled = table.apply(source_tensors, module)
    report = table.check(source_tensors.keys(), module.state_dict().keys())
    _require_numbers(source_tensors, report, module)
    shared = shared_names(module)
    _require_equal(source_tensors, table, report, shared)
    _materialise(module, report, device)
    for names in shared:
        _tie(module, names)
    if dtype is not None:
        module.to(dtype)
    places = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in filled:
            places[name].copy_(tensor)
    return report


def shared_names(module: nn.Module) -> list[list[str]]:
    """Groups of names that are one tensor of the module (tied weights)."""
    groups: dict[int, list[str]] = {}
    for name, x in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(x), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _tie(module: nn.Module, names: list[str]) -> None:
    """Make the names one tensor again, after `to_empty` has given each its own."""
    path, _, leaf = names[0].rpartition(".")
    tensor = getattr(module.get_submodule(path), leaf)
    for name in names[1:]:
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, tensor)


def _require_equal(source: Mapping[str, Tensor], table: KeyTable, report: KeyReport, shared: list[list[str]]) -> None:
    """What the file stores twice for one tensor of the model must be the same; checked before anything is written."""
    for names in shared:
        first: Tensor | None = None
        for use in report.uses:
            for name in set(names).intersection(use.targets):
                tensor = table.rows[use.row].convert([source[key] for key in use.sources])[use.targets.index(name)]
                if first is not None and not torch.equal(first, tensor):
                    raise WeightsError(
                        f"{names[0]!r} and {names[1]!r} are one tensor of the model, "
                        "the file gives them different values"
                    )
                first = tensor


def _require_numbers(source: Mapping[str, Tensor], report: KeyReport, module: nn.Module) -> None:
    """A parameter of real numbers is not filled from whole ones: such a file is damaged or quantised in its own way."""
    places = module.state_dict(keep_vars=True)
    for use in report.uses:
        if not all(places[name].is_floating_point() for name in use.targets):
            continue
        for name in use.sources:
            found = stored_dtype(source, name)
            if found.lower().startswith(WHOLE):
                raise WeightsError(
                    f"{name!r} holds numbers of type {found}, expected a floating type for {use.targets[0]!r}; a "
                    "quantised checkpoint needs its own reader"
                )


def stored_dtype(source: Mapping[str, Tensor], name: str) -> str:
    """The stored type of one tensor, without reading it when the reader can tell."""
    infos = getattr(source, "infos", None)
    return infos[name].dtype if infos is not None else str(source[name].dtype).removeprefix("torch.")


def _materialise(module: nn.Module, report: KeyReport, device: torch.device | str | None) -> None:
    """Give a meta module memory; refuse when that would leave values undefined."""
    empty = [name for name, x in module.state_dict(keep_vars=True).items() if x.is_meta]
    covered = {*report.filled, *report.tied}
    unfilled = [name for name in empty if name not in covered]
    if unfilled:
        raise WeightsError(
            f"{unfilled[0]!r} and {len(unfilled) - 1} more are new and on the meta device, where they have no first "
            "values; build the model on the cpu"
        )
    hidden = [name for name, x in module.named_buffers() if x.is_meta and name not in covered]
    if hidden:
        raise WeightsError(f"the buffer {hidden[0]!r} is computed, not stored; build the model on the cpu")
    if empty:
        module.to_empty(device=device or "cpu")
    elif device is not None:
        module.to(device)


def open_source(source: Source, progress: Progress | None = None, offline: bool = False) -> TensorFile:
    """Fetch a source and open it in the format its record names."""
    if not source.format:
        raise WeightsError(f"{source}: the record names no format (safetensors, gguf, torch, npz)")
    path = fetch(source, progress, offline)
    if source.format == "torch":
        return read_torch(path, source.entry or None)
    return read(path, source.format)


def load_safetensors(module: nn.Module, path: str | Path) -> None:
    """Fill a module from a file that has its own names, written by `export.save_safetensors`."""
    tensors = read(path, "safetensors")
    keys = set(tensors)
    table = KeyTable.of({name: name for name in keys}, tied=_shared(module, keys))
    load_into(module, tensors, table)


def _shared(module: nn.Module, present: set[str]) -> dict[str, str]:
    """Names of one memory of which the file has only one."""
    tied: dict[str, str] = {}
    for names in shared_names(module):
        stored = [name for name in names if name in present]
        if stored:
            tied.update({name: stored[0] for name in names if name not in present})
    return tied


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it; raises WeightsError when there are none."""
    found = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    if not found:
        raise WeightsError(f"the file has no tensor under {prefix!r}; its first is {min(tensors, default='none')!r}")
    return found


def load_part(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Fill a module strictly from the tensors below `prefix`, which have the module's own names."""
    found = under(tensors, prefix)
    load_into(module, found, KeyTable.of({name: name for name in found}))
