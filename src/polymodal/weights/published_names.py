"""A module's values under the names of the checkpoint it was loaded from: the way back of loading, key by key.

    source (names and shapes on disk) + key table -> which row filled which parameter -> each row inverted
    dropped keys     copied from the source; one that repeats a used key (a tied head stored twice) follows that key
    new parameters   have no name on disk: `extra`, under the module's names
    resized positions that were trained: the nearest table under the published name, and their own values in `extra`

The set of names is that of the source, so what read the source reads the result.  Everything is checked before anything
is returned: a row must give back exactly what the module holds.
Traps: the inverse is taken for each use of a row and not for the table, since rows may overlap; a constant that is
added (Gemma's norms in GGUF) costs bits of half precision, so such a tensor is given in float32 where it must be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights.keytable import KeyTable
from polymodal.weights.report import KeyReport, Use
from polymodal.weights.rows import Row
from polymodal.weights.tensors import dtype_of, read_into, shape_of

_PROBE = 64


@dataclass(frozen=True, kw_only=True)
class PublishedTensors:
    """tensors: every name of the source; extra: by the module's names, what the source has no name or room for."""

    tensors: dict[str, Tensor]
    extra: dict[str, Tensor] = field(default_factory=dict)


def published_tensors(
    state: Mapping[str, Tensor], source: Mapping[str, Tensor], table: KeyTable, report: KeyReport
) -> PublishedTensors:
    """state: the module's; table and report: those that fit `source` to it (`weights.load.fitting`).

    Raises WeightsError when a row cannot be inverted for these values.
    """
    for name, other in report.tied.items():
        if not _equal(state[name], state[other]):
            raise WeightsError(f"{name!r} and {other!r} are one tensor in the checkpoint and differ in the model")
    given: dict[str, Tensor] = {}
    extra = {name: state[name].detach() for name in report.new}
    for use in report.uses:
        found = _on_disk(table, use, state, source)
        given.update(zip(use.sources, found, strict=True))
        extra |= _beyond(table.rows[use.row], use, found, state)
    twins = dict(_repeated(source, report)) | {name: x for name, x in report.copies.items() if x in given}
    for name in report.dropped:
        given[name] = given[twins[name]] if name in twins else source[name]
    return PublishedTensors(tensors={name: given[name] for name in source}, extra=extra)


def _on_disk(table: KeyTable, use: Use, state: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors on disk of one row; they give back the module's own, else WeightsError.

    Where the row loses something (positions are resized) the source's own do as long as they were not changed, and
    then the nearest, see `_beyond`.
    """
    row, own = table.rows[use.row], [state[name].detach() for name in use.targets]
    if row.lossy:
        kept = [source[name] for name in use.sources]
        return kept if _same(_cast(row.convert(kept), own), own) else row.inverse().convert(own)
    try:
        found = row.inverse().convert(own)
        if not row.plain and not _same(row.convert(found), own):
            found = row.inverse().convert([x.float() for x in own])
        if not row.plain and not _same(row.convert(found), own):
            found = [source[name] for name in use.sources]
            if not _same(_cast(row.convert(found), own), own):
                raise ConfigError("the checkpoint cannot hold the values that it has now")
    except ConfigError as error:
        raise WeightsError(f"{use.targets[0]!r} cannot be written as {use.sources[0]!r}: {error}") from error
    return found


def _beyond(row: Row, use: Use, found: list[Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The module's own tensors, by its names, where those on disk come near and no further."""
    if not row.lossy:
        return {}
    own = {name: state[name].detach() for name in use.targets}
    back = _cast(row.convert(found), list(own.values()))
    return {} if all(map(torch.equal, back, own.values())) else own


def _cast(found: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    return [x.to(y) for x, y in zip(found, like, strict=True)]


def _same(found: list[Tensor], own: list[Tensor]) -> bool:
    """Equal up to the last bit of float32."""
    return all(torch.allclose(a.float(), b.float(), rtol=1e-6, atol=1e-6, equal_nan=True)
               for a, b in zip(found, own, strict=True))  # fmt: skip


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr()) or torch.equal(a, b)


def _repeated(source: Mapping[str, Tensor], report: KeyReport) -> Iterator[tuple[str, str]]:
    """Dropped keys with the used key whose values they repeat; constants may be equal by chance and do not count."""
    by_shape: dict[tuple[object, ...], list[str]] = {}
    for name in report.used:
        by_shape.setdefault((shape_of(source, name), dtype_of(source, name)), []).append(name)
    for name in report.dropped:
        shape, dtype = shape_of(source, name), dtype_of(source, name)
        alike = by_shape.get((shape, dtype), []) if shape and dtype.is_floating_point else []
        begin = _first_values(source, name) if alike else None
        for other in alike:
            assert begin is not None
            if torch.equal(begin, _first_values(source, other)) and _varies(source[name], source[other]):
                yield name, other
                break


def _varies(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal and more than one repeated constant."""
    flat = tensor.reshape(-1)
    return torch.equal(tensor, other) and bool((flat != flat[0]).any())


def _first_values(source: Mapping[str, Tensor], name: str) -> Tensor:
    """The first values of a tensor, as a file gives them without reading the rest."""
    count = min(_PROBE, torch.Size(shape_of(source, name)).numel())
    values = torch.empty(count, dtype=dtype_of(source, name))
    read_into(source, name, values)
    return values
