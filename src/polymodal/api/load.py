"""`pm.load` and `pm.pull`: from a name to a model.

"mini"  "mini:variant"  "./my_system.py"  "./saved_folder"  ->  fetch what is missing  ->  build and fill  ->  Model
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from polymodal.errors import ConfigError
from polymodal.systems import _system

if TYPE_CHECKING:
    from polymodal.api.model import Model

Progress = Callable[[str, int, int | None], None]
DTYPES = ("float32", "bfloat16", "float16")


def load(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
    offline: bool = False,
) -> Model:
    """Load a model, fetching its weights first where they are not here yet.

    model: a catalogue id ("mini", "mini:variant"), a folder written by `Model.save`, or your own system file
    (which is Python and is run).  progress(name, bytes done, bytes in all) is called while fetching; offline
    refuses to.  Raises UnknownName, WeightsError, ConfigError.
    """
    # Importing torch is most of the wait on a first load, so it counts.
    start = time.perf_counter()
    from polymodal.api import folder
    from polymodal.api.model import Model

    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}'; expected {', '.join(DTYPES)}")
    pull(model, progress=progress, offline=offline)
    saved = saved_folder(model)
    system, variant = _system.find(address(model))
    options = _system.LoadOptions(device=device, dtype=dtype, progress=progress, offline=offline)
    parts = system.load(variant, options)
    if saved is not None:
        folder.fill(saved, parts.model)
    parts.model.eval()
    return Model(system=system, variant=variant, parts=parts, load_seconds=time.perf_counter() - start)


def pull(model: str | Path, *, progress: Progress | None = None, offline: bool = False) -> list[Path]:
    """Fetch a model's published files into the cache, each checked by hash; returns where they are.

    A broken transfer goes on where it stopped.  Raises WeightsError when a file cannot be had or is not the
    published one.
    """
    from polymodal.weights.fetch import fetch, fetch_all

    _, variant = _system.find(address(model))
    whole = [source for source in variant.weights if not isinstance(source, tuple)]
    joined = [sources for sources in variant.weights if isinstance(sources, tuple)]
    return fetch_all(whole, progress, offline) + [fetch(sources, progress, offline) for sources in joined]


def saved_folder(model: str | Path) -> Path | None:
    """The folder if a folder is meant (it exists, or is written as a path), else None."""
    place = Path(model)
    return place if place.is_dir() else None


def address(model: str | Path) -> str:
    """The system that a name, a system file or a saved folder stands for; a folder may only name our own."""
    from polymodal.api import folder

    saved = saved_folder(model)
    if saved is None:
        return str(model)
    record = folder.record_of(saved)
    return f"{_system.get(record['system']).id}:{record['variant']}"
