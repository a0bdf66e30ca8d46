"""Saving: a module's tensors under its own names or, through a key table read backwards, under published
ones.

flow:  tensors -> (inverse table) -> contiguous, tied names once -> temporary file -> flushed -> renamed

Traps: a crash or a full disk leaves the old file, never half of the new one.  What the table dropped on the
way in is not in the exported file; `export_names` says which keys the module can give.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from polymodal.errors import WeightsError
from polymodal.weights.cache import DISK_FULL
from polymodal.weights.keytable import KeyTable


def export_tensors(module: nn.Module | Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """The module's tensors under the names of the table's source side; raises WeightsError when one has no row."""
    tensors = module.state_dict() if isinstance(module, nn.Module) else module
    return dict(table.inverse().apply(tensors))


def export_safetensors(
    module: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    table: KeyTable,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a published layout: `export_tensors`, then `save_safetensors`."""
    return save_safetensors(export_tensors(module, table), path, dtype, metadata)


def save_safetensors(
    tensors: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write tensors (or a module's state) to one file, atomically; floating ones as `dtype` when it is given.

    Names that share one tensor are stored once, under the first name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    named = tensors.state_dict(keep_vars=True) if isinstance(tensors, nn.Module) else tensors
    stored = _storable(named, path, dtype)
    with whole_file(path, sum(x.numel() * x.element_size() for x in stored.values())) as draft:
        try:
            save_file(stored, draft, metadata=dict(metadata or {}) or None)
        except SafetensorError as error:
            # The library says a full disk in words alone: "I/O error: No space left on device (os error 28)".
            if found := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
            raise WeightsError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error
    return path


@contextmanager
def whole_file(path: Path, size: int = 0) -> Iterator[Path]:
    """A draft beside `path` that takes its name, flushed, when the block has ended without an error.

    size: bytes it will have.  Raises WeightsError of one line for a full disk and for what cannot be written.
    """
    draft: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        draft = Path(name)
        if size > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> WeightsError:
    """The message for a file that a user asked for and that cannot be written."""
    if error.errno in DISK_FULL:
        return WeightsError(f"{path.parent}: the disk is full; free some space there or save to another disk")
    return WeightsError(f"{path}: cannot be written: {error.strerror or error}")


def _storable(named: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors that safetensors accepts: on the CPU, contiguous, each in memory of its own, tied ones once."""
    stored: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    for name, x in named.items():
        if x.is_meta:
            raise WeightsError(f"{path}: tensor {name!r} has no values (meta device), nothing was written")
        view = (x.data_ptr(), x.shape, x.stride())
        if x.numel() and view in seen:
            continue
        shares = any(x.data_ptr() == other[0] for other in seen) or x.untyped_storage().nbytes() != x.nbytes
        seen.add(view)
        kept = x.detach().to("cpu", dtype if dtype is not None and x.is_floating_point() else x.dtype).contiguous()
        stored[name] = kept.clone() if shares else kept
    return stored
