"""What frozen encoders say of an item, kept on disk: each picture is encoded once, however often it is learned from.

    with cached_features(model, folder):  encoders.image(pixel_values [N, ...]) -> the rows that lie in the folder, and
    those that do not, which are computed and written;  folder/<hash of the weights>/ab/abcd....safetensors

A row is found by a hash of the encoder's weights, of its own inputs and of the precision, so that other weights, other
pictures or another transform find nothing.  Memory does not grow with the data; processes may share a folder.
Traps: of a batch in which rows are missing those alone are computed, and rows that lie there are always read, so that
a run that goes on sees the same bits; inputs that are not one row an item (patches of pictures of any size, side by
side) are computed each time, as are encoders that learn.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polymodal.errors import StorageError
from polymodal.nn.precision import autocast_dtype
from polymodal.train.ranks import whole

Forward = Callable[..., Any]


@contextmanager
def cached_features(model: nn.Module, folder: Path | None) -> Iterator[None]:
    """Within it, frozen encoders of a model read and write their outputs in a folder; None: nothing is kept."""
    encoders = dict(model.named_children()).get("encoders") if folder is not None else None
    frozen = [each for each in (encoders.children() if encoders is not None else ()) if is_frozen(each)]
    own = [vars(each).get("forward") for each in frozen]  # of sharded ones
    try:
        for encoder in frozen:
            assert folder is not None
            encoder.forward = Kept(folder / weights_hash(encoder), encoder.forward)  # type: ignore[method-assign]
        yield
    finally:
        for encoder, forward in zip(frozen, own, strict=True):
            vars(encoder).pop("forward", None)
            if forward is not None:
                encoder.forward = forward  # type: ignore[method-assign]


def is_frozen(encoder: nn.Module) -> bool:
    """Whether it has parameters, none of which learns."""
    parameters = list(encoder.parameters())
    return bool(parameters) and not any(each.requires_grad for each in parameters)


def weights_hash(encoder: nn.Module) -> str:
    """Of its class, its settings and its weights, those of all processes."""
    digest = hashlib.sha256(f"{type(encoder).__name__} {dict(vars(encoder)).get('config')!r}".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        values = whole(tensor.detach()).cpu().contiguous()
        digest.update(f"\0{name} {values.dtype} {list(values.shape)}\0".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Kept:
    """A forward whose rows are kept in a folder."""

    def __init__(self, folder: Path, forward: Forward) -> None:
        self.folder, self.forward = folder, forward

    def __call__(self, *given: Any, **named: Any) -> Any:
        """The same as the forward."""
        keys = row_keys((*given, *(value for _, value in sorted(named.items()))))
        if keys is None:
            return self.forward(*given, **named)
        found = [self.read(key, given[0].device) for key in keys]
        missing = [index for index, each in enumerate(found) if each is None]
        if missing:
            some = (of_rows(each, missing) for each in given), {name: of_rows(x, missing) for name, x in named.items()}
            rows = rows_of(self.forward(*some[0], **some[1]), len(missing))
            if isinstance(rows, Whole):  # nothing of such an output is ever kept, so that all rows were missing
                return rows.output
            for index, row in zip(missing, rows, strict=True):
                self.write(keys[index], row)
                found[index] = row
        return joined([each for each in found if each is not None])

    def path(self, key: str) -> Path:
        """Where a row lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str, device: Any) -> dict[str, Tensor] | None:
        """A row; None where there is none, or a damaged one."""
        try:
            return load_file(self.path(key), device=str(device))
        except (OSError, SafetensorError):
            return None

    def write(self, key: str, row: Mapping[str, Tensor]) -> None:
        """Whole or not at all.  Raises StorageError."""
        path = self.path(key)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: each.detach().contiguous() for name, each in row.items()}, draft)
            os.replace(draft, path)
        except (OSError, SafetensorError) as problem:
            with suppress(OSError):
                draft.unlink()
            raise StorageError(f"cannot write features into {self.folder}: {problem}") from problem


def row_keys(values: Sequence[Any]) -> list[str] | None:
    """A key for each row of the inputs; None where they are not one row an item."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    count = len(tensors[0]) if tensors and tensors[0].dim() > 1 else 0
    if not count or any(not each.dim() or len(each) != count for each in tensors):
        return None
    rest = [value for value in values if not isinstance(value, Tensor)]
    if not all(value is None or isinstance(value, bool | int | float | str) for value in rest):
        return None
    about = f"{autocast_dtype(tensors[0].device.type)} {rest}"
    return [row_key(about, [each[index] for each in tensors]) for index in range(count)]


def of_rows(value: Any, rows: Sequence[int]) -> Any:
    """These rows of an input; what is no tensor is of all rows."""
    return value[list(rows)] if isinstance(value, Tensor) else value


def row_key(about: str, row: Sequence[Tensor]) -> str:
    """The hash of one row of the inputs."""
    digest = hashlib.sha256(about.encode())
    for each in row:
        values = each.detach().cpu().contiguous()
        digest.update(f"\0{values.dtype} {list(values.shape)}\0".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Whole:
    """An output that is not one row an item."""

    def __init__(self, output: Any) -> None:
        self.output = output


def rows_of(output: Any, count: int) -> list[dict[str, Tensor]] | Whole:
    """A tensor [N, ...], a list of N tensors, a tuple of tensors [N, ...] -> N tables of tensors by "kind number"."""
    if isinstance(output, Tensor) and output.dim() and len(output) == count:
        return [{"tensor 0": each} for each in output]
    tensors = isinstance(output, list | tuple) and all(isinstance(each, Tensor) for each in output)
    if isinstance(output, list) and tensors and len(output) == count:
        return [{"list 0": each} for each in output]
    if isinstance(output, tuple) and tensors and output and all(each.dim() and len(each) == count for each in output):
        return [{f"tuple {number}": each[row] for number, each in enumerate(output)} for row in range(count)]
    return Whole(output)


def joined(rows: Sequence[Mapping[str, Tensor]]) -> Any:
    """The output that rows were made of."""
    kind = next(iter(rows[0])).split()[0]
    if kind == "list":
        return [row["list 0"] for row in rows]
    parts = [torch.stack([row[f"{kind} {number}"] for row in rows]) for number in range(len(rows[0]))]
    return parts[0] if kind == "tensor" else tuple(parts)
