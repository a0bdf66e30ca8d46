"""`pm.load` and `pm.pull`: from a name to a model.

"mini"  "mini:variant"  "./my_system.py"  "./saved_folder"  ->  fetch what is missing  ->  build and fill  ->  Model
"./published_folder", a catalogue id with a repository  ->  recognise the layout  ->  build at its size, fill  ->  Model
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
    system: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
    offline: bool = False,
) -> Model:
    """Load a model, fetching its weights first where they are not here yet.

    model: a catalogue id ("mini", "llava:1.5-7b"), a folder written by `Model.save`, a published checkpoint (its
    folder, or one official weights file) of any size, or your own system file (which is Python and is run).  system:
    what to read a published folder as, when several systems share its layout.  progress(name, bytes done, bytes in all)
    is called while fetching; offline refuses to.  Raises UnknownName, WeightsError, ConfigError.
    """
    # Importing torch is most of the wait on a first load, so it counts.
    start = time.perf_counter()
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}'; expected {', '.join(DTYPES)}")
    options = _system.LoadOptions(device=device, dtype=dtype, progress=progress, offline=offline)
    place = published_place(model)
    if place is not None:
        return _published(place, system, options, start)
    found, variant = _system.find(address(model))
    if found.load is None:
        return _published(pull_repository(found, variant, progress, offline), found.id, options, start, variant)
    return _ours(model, options, start)


def _ours(model: str | Path, options: _system.LoadOptions, start: float) -> Model:
    from polymodal.api import folder
    from polymodal.api.model import Model

    pull(model, progress=options.progress, offline=options.offline)
    saved = saved_folder(model)
    system, variant = _system.find(address(model))
    assert system.load is not None
    parts = system.load(variant, options)
    if saved is not None:
        folder.fill(saved, parts.model)
    parts.model.eval()
    return Model(system=system, variant=variant, parts=parts, load_seconds=time.perf_counter() - start)


def _published(
    place: Path, system: str | None, options: _system.LoadOptions, start: float, variant: _system.Variant | None = None
) -> Model:
    from polymodal.api import published
    from polymodal.api.model import Model

    found = published.recognise(place, system)
    opened, parts = published.open_folder(place, found, options)
    seconds = time.perf_counter() - start
    return Model(system=found.system, variant=variant or opened, parts=parts, load_seconds=seconds, place=place)


def published_place(model: str | Path) -> Path | None:
    """The folder or weights file that a published checkpoint is meant by, else None."""
    from polymodal.api import published

    place = Path(model)
    return place if published.is_published(place) else None


def pull(model: str | Path, *, progress: Progress | None = None, offline: bool = False) -> list[Path]:
    """Fetch a model's published files into the cache, each checked by hash; returns where they are.

    A broken transfer goes on where it stopped.  Raises WeightsError when a file cannot be had or is not the
    published one.
    """
    from polymodal.weights.fetch import fetch, fetch_all

    if published_place(model) is not None:
        return []
    system, variant = _system.find(address(model))
    if system.load is None:
        return [pull_repository(system, variant, progress, offline)]
    whole = [source for source in variant.weights if not isinstance(source, tuple)]
    joined = [sources for sources in variant.weights if isinstance(sources, tuple)]
    return fetch_all(whole, progress, offline) + [fetch(sources, progress, offline) for sources in joined]


def pull_repository(
    system: _system.System, variant: _system.Variant, progress: Progress | None, offline: bool
) -> Path:
    """The folder of a variant's published checkpoint, fetched where it is not here yet."""
    from polymodal.weights.hub import fetch_repository

    if variant.repository is None:
        raise ConfigError(
            f"{system.id}:{variant.name}: no weights were released; train it, or load a folder in its layout with "
            "pm.load(folder)"
        )
    return fetch_repository(variant.repository.name, variant.repository.revision, progress, offline)


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
