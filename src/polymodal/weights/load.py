"""Filling a module from weights files: everything is checked first, then values are read straight into the parameters.

flow:  names and shapes against the table -> memory for a module on the meta device, in its dtype, on its device
       -> tensors are read from the file straight into it, several at a time

    load_module(build, tensors, tables, dtype=..., device=...)     build and fill: peak memory is the module itself
    load_into(module, tensors, table)                              fill a module that is there

So a module is either filled completely or, when names or shapes do not fit, untouched.  Beside the module there is
memory for the buffers through which values of another dtype pass, and for one row's tensors where a row computes.
A quantised linear (nn/quantise.py) on the meta device is filled with the values of the Linear it replaces, quantised
as they come.

Traps: a file may store tied tensors twice; the copies must be equal, and CopyDiffers says which are not (a head that
has values of its own though its config ties it).  The memory is the module's own, unless `mmap` asks for the pages of
the file; training in place never changes a file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from polymodal.errors import WeightsError
from polymodal.nn.int4 import ROWS
from polymodal.nn.quantise import QUANTISED, QuantisedLinear
from polymodal.weights.build import build_empty, first_values
from polymodal.weights.fetch import Progress, fetch
from polymodal.weights.keytable import KeyTable
from polymodal.weights.merged import MergedTensors
from polymodal.weights.read import TensorFile, read, read_torch
from polymodal.weights.report import KeyReport, Use
from polymodal.weights.source import Source
from polymodal.weights.tensors import Shape, dtype_of, map_tensor, read_into, shape_of

Built = TypeVar("Built", bound=nn.Module)


class CopyDiffers(WeightsError):
    """A tensor that the model takes for a copy of another has values of its own in the file."""


_READERS = 4  # each may hold one tensor of a packed checkpoint, computed whole
_COMPARED = 1 << 20
_HELD = 500_000  # values read at a time for a quantised weight, and quantised at a time: see raw.py
_QUANTISED = 30_000


def load_module(
    build: Callable[[], Built],
    tensors: Mapping[str, Tensor],
    tables: Sequence[KeyTable] | None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    prepare: Callable[[nn.Module], object] | None = None,
    mmap: bool = False,
) -> Built:
    """Build a module and fill it by the table that fits; None: the tensors have the module's own names.

    dtype: of floating parameters and buffers; None: as `build` makes them.  Buffers that `build` computes
    (nn/computed.py) take the values of a file that has them and keep their own where it has not.  prepare: changes the
    module while it is on the meta device (`quantise_linears`).  mmap: on a CPU, values that the file has in the wanted
    dtype stay in its pages (see raw.py).  Parameters that the table declares new start as in a fresh build.
    Raises WeightsError, before memory is taken, unless names and shapes fit.
    """
    with torch.inference_mode(False):  # a model that is first needed while another answers is an ordinary one, too
        module = build_empty(build)
        tables = (own_table(module, tensors),) if tables is None else tables
        empty = {name for name, x in module.state_dict(keep_vars=True).items() if x.is_meta}
        shapes = expected_shapes(module)
        table, report = fitting(tables, tensors, shapes, shapes.keys() - empty)
        first = first_values(build, empty.intersection(report.new))
        if prepare is not None:
            prepare(module)
        _fill(module, tensors, table, report, dtype, device, first, mmap)
    return module


def load_into(
    module: nn.Module,
    source_tensors: Mapping[str, Tensor],
    table: KeyTable,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> KeyReport:
    """Fill `module` in place and report what was used, dropped and left new.

    dtype: floating parameters and buffers are brought to it first; None keeps the module's own.
    device: where the module goes first; None: it stays, and what is on the meta device comes to life on the CPU.
    Raises WeightsError before anything is changed when names or shapes do not fit.
    """
    table, report = fitting((table,), source_tensors, expected_shapes(module))
    _fill(module, source_tensors, table, report, dtype, device, {})
    return report


def fitting(
    tables: Sequence[KeyTable],
    source: Mapping[str, Tensor],
    target: Mapping[str, Shape],
    computed: Collection[str] = (),
) -> tuple[KeyTable, KeyReport]:
    """The table that fits these names and shapes; raises WeightsError with the problems of the nearest one.

    computed: targets that need no value of a file.
    """
    names, targets = list(source), list(target)
    reports = [table.check(names, targets, hints=False, computed=computed) for table in tables]
    best = min(range(len(tables)), key=lambda i: len(reports[i].problems))
    if not reports[best].ok:
        tables[best].check(names, targets, computed=computed).require()
    tables[best].check_shapes(source, target, reports[best])
    return tables[best], reports[best]


def expected_shapes(module: nn.Module) -> dict[str, Shape]:
    """Names and shapes of what a file must give: parameters and stored buffers; scales of small weights are made."""
    made = {f"{name}.scale" for name in _quantised_layers(module)}
    shapes = {name: tuple(x.shape) for name, x in module.state_dict().items() if name not in made}
    return shapes | {name: layer.shape for name, layer in _quantised_weights(module).items()}


def shared_names(module: nn.Module) -> list[list[str]]:
    """Groups of names that are one tensor of the module (tied weights)."""
    groups: dict[int, list[str]] = {}
    for name, x in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(x), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _fill(
    module: nn.Module,
    source: Mapping[str, Tensor],
    table: KeyTable,
    report: KeyReport,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    first: Mapping[str, Tensor],
    mmap: bool = False,
) -> None:
    _require_numbers(source, report, module)
    _require_equal(source, table, report, shared_names(module))
    _require_copies(source, report)
    _require_values(module, report, first)
    on_cpu = torch.device("cpu" if device is None else device).type == "cpu"
    mapped = _mapped(source, table, report, module, dtype) if mmap and on_cpu else {}
    _materialise(module, dtype, device, mapped)
    targets = {name: x.detach() for name, x in module.state_dict(keep_vars=True).items()}
    for name, value in first.items():
        targets[name].copy_(value)
    _read(source, table, report, targets, _quantised_weights(module), {x.data_ptr() for x in mapped.values()})


def _mapped(
    source: Mapping[str, Tensor], table: KeyTable, report: KeyReport, module: nn.Module, dtype: torch.dtype | None
) -> dict[int, Tensor]:
    """id of a tensor of the module on the meta device -> its values in the pages of the file."""
    targets, small, found = module.state_dict(keep_vars=True), _quantised_weights(module), {}
    for use in report.uses:
        name = use.targets[0]
        target = targets[name]
        if not table.rows[use.row].plain or name in small or not target.is_meta or id(target) in found:
            continue
        wanted = dtype if dtype is not None and target.is_floating_point() else target.dtype
        if dtype_of(source, use.sources[0]) == wanted and (pages := map_tensor(source, use.sources[0])) is not None:
            found[id(target)] = pages
    return found


def _quantised_layers(module: nn.Module) -> dict[str, QuantisedLinear]:
    return {name: part for name, part in module.named_modules() if isinstance(part, QUANTISED)}


def _quantised_weights(module: nn.Module) -> dict[str, QuantisedLinear]:
    return {f"{name}.weight": part for name, part in _quantised_layers(module).items()}


def _read(
    source: Mapping[str, Tensor],
    table: KeyTable,
    report: KeyReport,
    targets: Mapping[str, Tensor],
    small: Mapping[str, QuantisedLinear],
    mapped: Collection[int] = (),
) -> None:
    """Fill every target: plain reads by several threads, computed values one row at a time.

    mapped: addresses of targets that lie in the pages of the file.
    """
    reads: list[Callable[[], None]] = []
    computed: list[Use] = []
    for use in report.uses:
        row = table.rows[use.row]
        if targets[use.targets[0]].data_ptr() in mapped:
            continue
        quantised = [name for name in use.targets if name in small]
        shaped = {name: torch.empty(small[name].shape, device="meta") for name in quantised}
        views = row.views([shaped.get(name, targets[name]) for name in use.targets])
        if views is None or (quantised and len(use.sources) > 1):
            computed.append(use)
        elif quantised:
            reads.append(partial(_quantise_from, source, use.sources[0], small[quantised[0]]))
        else:
            reads += [partial(read_into, source, name, view) for name, view in zip(use.sources, views, strict=True)]
    _all(reads)
    for use in computed:
        results = table.convert(use, source)
        for name, tensor in zip(use.targets, results, strict=True):
            if name in small:
                small[name].fill(slice(0, len(tensor)), tensor)
            else:
                targets[name].copy_(tensor)
    for name, other in report.tied.items():
        if targets[name].data_ptr() != targets[other].data_ptr():
            targets[name].copy_(targets[other])


def _all(reads: Sequence[Callable[[], None]]) -> None:
    """Make every call, by as many threads as there are processors for this process; the first error is raised."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(_READERS, processors, len(reads))
    if threads < 2:
        for each in reads:
            each()
        return
    inference = torch.is_inference_mode_enabled()  # known to each thread alone

    def make(each: Callable[[], None]) -> None:
        with torch.inference_mode(inference):
            each()

    pool = ThreadPoolExecutor(threads)
    try:
        for done in [pool.submit(make, each) for each in reads]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _quantise_from(source: Mapping[str, Tensor], name: str, layer: QuantisedLinear) -> None:
    """Fill a quantised weight [out, in] from a stored one of real numbers, a few rows at a time."""
    rows, width = layer.shape
    # Rows of int4 weights lie together in blocks.
    step, most = (max(ROWS, size // max(width, 1) // ROWS * ROWS) for size in (_QUANTISED, _HELD))
    held = torch.empty(min(most, rows), width, dtype=torch.float32)
    for begin in range(0, rows, most):
        block = held[: min(most, rows - begin)]
        read_into(source, name, block, begin * width)
        for first in range(0, len(block), step):
            part = block[first : first + step]
            layer.fill(slice(begin + first, begin + first + len(part)), part)


def _require_equal(
    source: Mapping[str, Tensor], table: KeyTable, report: KeyReport, shared: Sequence[Sequence[str]]
) -> None:
    """What the file stores twice for one tensor of the model must be the same; checked before anything is written."""
    for names in shared:
        uses = [(use, name) for use in report.uses for name in use.targets if name in names]
        for use, name in uses[1:]:
            if not _same(source, table, *uses[0], use, name):
                raise WeightsError(
                    f"{names[0]!r} and {names[1]!r} are one tensor of the model, the file gives them different values"
                )


def _same(source: Mapping[str, Tensor], table: KeyTable, use: Use, name: str, other_use: Use, other_name: str) -> bool:
    rows = table.rows[use.row], table.rows[other_use.row]
    if not all(row.plain for row in rows):
        found = [table.convert(each, source)[each.targets.index(target)]
                 for each, target in ((use, name), (other_use, other_name))]  # fmt: skip
        return torch.equal(*found)
    return _equal(source, use.sources[0], other_use.sources[0])


def _require_copies(source: Mapping[str, Tensor], report: KeyReport) -> None:
    """What is dropped as a copy must be one; checked before anything is written."""
    for name, original in report.copies.items():
        if not _equal(source, name, original):
            raise CopyDiffers(
                f"{name!r} should repeat {original!r}, which the model uses for both; the file gives them different "
                "values, and a model that keeps them apart is not supported here"
            )


def _equal(source: Mapping[str, Tensor], *keys: str) -> bool:
    """Whether two stored tensors have the same shape and values, read a part at a time."""
    if shape_of(source, keys[0]) != shape_of(source, keys[1]):
        return False
    total, dtype = _values(source, keys[0]), dtype_of(source, keys[0])
    if dtype != dtype_of(source, keys[1]):
        dtype = torch.float64
    for first in range(0, total, _COMPARED):
        parts = [torch.empty(min(_COMPARED, total - first), dtype=dtype) for _ in keys]
        for key, part in zip(keys, parts, strict=True):
            read_into(source, key, part, first)
        if not torch.equal(*parts):
            return False
    return True


def _values(source: Mapping[str, Tensor], name: str) -> int:
    return math.prod(shape_of(source, name))


def _require_numbers(source: Mapping[str, Tensor], report: KeyReport, module: nn.Module) -> None:
    """A parameter of real numbers is not filled from whole ones: such a file is damaged or quantised in its own way."""
    targets, small = module.state_dict(keep_vars=True), _quantised_weights(module)
    for use in report.uses:
        if not all(targets[name].is_floating_point() or name in small for name in use.targets):
            continue
        for name in use.sources:
            found = dtype_of(source, name)
            if not found.is_floating_point:
                raise WeightsError(
                    f"{name!r} holds numbers of type {str(found).removeprefix('torch.')}, expected a floating type for "
                    f"{use.targets[0]!r}; a quantised checkpoint needs its own reader"
                )


def _require_values(module: nn.Module, report: KeyReport, first: Mapping[str, Tensor]) -> None:
    """Refuse a module on the meta device of which something would stay without values."""
    covered = {*report.filled, *report.tied, *first} | {f"{name}.scale" for name in _quantised_layers(module)}
    empty = [name for name, x in module.state_dict(keep_vars=True).items() if x.is_meta and name not in covered]
    if empty:
        raise WeightsError(
            f"{empty[0]!r} and {len(empty) - 1} more are new and on the meta device, where they have no first "
            "values; use load_module, or build the model on the cpu"
        )
    hidden = [name for name, x in module.named_buffers() if x.is_meta and name not in covered]
    if hidden:
        raise WeightsError(f"the buffer {hidden[0]!r} is on the meta device and in no file; make it a computed_buffer")


def _materialise(
    module: nn.Module,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    mapped: Mapping[int, Tensor],
) -> None:
    """Give what is on the meta device memory, in this dtype and on this device, ties kept; move the rest there.

    mapped: id of a tensor on the meta device -> its values, in memory already.
    """
    if not any(x.is_meta for x in (*module.parameters(), *module.buffers())):
        module.to(device=device, dtype=dtype)
        return
    made: dict[int, Tensor] = {}
    for part in module.modules():
        kept = ("weight", "scale") if isinstance(part, QUANTISED) else ()
        for slots in (part._parameters, part._buffers):
            for leaf, x in slots.items():
                if x is None:
                    continue
                target = dtype if dtype is not None and x.is_floating_point() and leaf not in kept else x.dtype
                if id(x) not in made:
                    made[id(x)] = _placed(x, target, device) if id(x) not in mapped else _as(x, mapped[id(x)])
                slots[leaf] = made[id(x)]  # type: ignore[assignment]


def _placed(x: Tensor, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    if not x.is_meta:
        with torch.no_grad():
            moved = x.to(device=device, dtype=dtype)
        if moved is x:
            return x
    else:
        moved = torch.empty(x.shape, dtype=dtype, device="cpu" if device is None else device)
    return _as(x, moved)


def _as(x: Tensor, values: Tensor) -> Tensor:
    """A parameter where `x` is one."""
    return nn.Parameter(values, x.requires_grad) if isinstance(x, nn.Parameter) else values


def open_source(source: Source, progress: Progress | None = None, offline: bool = False) -> TensorFile:
    """Fetch a source and open it in the format its record names."""
    if not source.format:
        raise WeightsError(f"{source}: the record names no format (safetensors, gguf, torch, npz, tfjs)")
    path = fetch(source, progress, offline)
    if source.format == "torch":
        return read_torch(path, source.entry or None)
    return read(path, source.format)


def own_table(module: nn.Module, names: Iterable[str]) -> KeyTable:
    """The table of a file that has the module's own names; of tied ones it may hold one."""
    present = set(names)
    tied: dict[str, str] = {}
    for group in shared_names(module):
        stored = [name for name in group if name in present]
        if stored:
            tied.update({name: stored[0] for name in group if name not in present})
    return KeyTable.of({name: name for name in present}, tied=tied)


def load_safetensors(module: nn.Module, path: str | Path) -> None:
    """Fill a module from a file that has its own names, written by `export.save_safetensors`."""
    tensors = read(path, "safetensors")
    load_into(module, tensors, own_table(module, tensors))


def under(tensors: Mapping[str, Tensor], prefix: str) -> MergedTensors:
    """The tensors below a prefix, without it; raises WeightsError when there are none."""
    found = {name.removeprefix(prefix): (tensors, name) for name in tensors if name.startswith(prefix)}
    if not found:
        raise WeightsError(f"the file has no tensor under {prefix!r}; its first is {min(tensors, default='none')!r}")
    return MergedTensors.of(found)
