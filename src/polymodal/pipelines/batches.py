"""Media of any kinds in any order, encoded in batches of one kind each.

[picture, text, picture, sound, text] -> [picture, picture], [text, text], [sound] -> rows in the items' order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.data.media import Media, Text
from polymodal.errors import ConfigError
from polymodal.nn.first_weight import first_weight

BATCH = 32  # items that `Model.embed` and `classify` put through an encoder at once, unless told otherwise


def in_batches(items: Iterable[Any], encode: Callable[[list[Any]], Tensor], batch_size: int | None = None) -> Tensor:
    """Rows of `encode` for all items, in their order.

    encode: up to `batch_size` items of one type and modality (a str comes as Text) -> [n, ...]; None: all together.
    What is decoded of an item (a picture's pixels) can go as soon as its batch is done, when `items` are made on the
    way (a generator).  Raises: ConfigError for no items.
    """
    if batch_size is not None:
        check_batch_size(batch_size)
    waiting = [Text(item) if isinstance(item, str) else item for item in items]
    kinds: dict[tuple[type, str], list[int]] = {}
    for index, item in enumerate(waiting):
        modality = item.modality if isinstance(item, Media) else ""  # pictures may be of depth or heat
        kinds.setdefault((type(item), modality), []).append(index)
    if not kinds:
        raise ConfigError("embed: expected at least one item, found none")
    rows: list[Any] = [None] * len(waiting)
    for indices in kinds.values():
        size = batch_size or len(indices)
        for first in range(0, len(indices), size):
            some = indices[first : first + size]
            for index, row in zip(some, encode([waiting[index] for index in some]), strict=True):
                rows[index], waiting[index] = row, None
    return torch.stack(rows)


def check_batch_size(size: Any) -> None:
    """Raises ConfigError for anything but a whole number from 1 on."""
    if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"batch_size: expected 1 or more, found {size!r}")


def stacked(values: Iterable[Tensor], module: nn.Module) -> Tensor:
    """The values of items as one tensor [N, ...] on the module's device, floating-point ones in its dtype."""
    weight, table = first_weight(module), torch.stack(list(values))
    return table.to(weight.device, weight.dtype if table.is_floating_point() else None)
