"""Sounds of instruments, machines and places, named by their files: Sonic Pi's samples.

Package: npm `supersonic-scsynth-samples`, samples/<family>_<name>.flac.  Key: the name without a trailing number or
letter, so that takes of one sound fall on one side.  Label: the family.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from polymodal.data.sets.record import Item
from polymodal.errors import MediaError

FAMILIES = {
    "ambi": "ambient", "bd": "bass drum", "elec": "electronic", "guit": "guitar", "hat": "hi-hat", "perc": "percussion",
    "ride": "ride cymbal", "sn": "snare drum", "misc": "miscellaneous",
}  # fmt: skip


def read(folder: Path) -> Iterator[Item]:
    """Every sound.  Raises MediaError where there are none."""
    files = sorted(folder.glob("**/samples/*.flac"))
    if not files:
        raise MediaError(f"no sounds below {folder}; expected samples/*.flac")
    for path in files:
        family, _, rest = path.stem.partition("_")
        label = FAMILIES.get(family, family)
        yield Item(
            id=path.stem,
            key=re.sub(r"(_?\d+|_[a-z])$", "", path.stem),
            media={"audio": (f"sounds/{path.name}", path)},
            tables={"": {"label": label, "name": " ".join([label, *rest.split("_")]).strip()}},
        )
