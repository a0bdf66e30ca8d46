"""`pm.load` and `pm.pull`: from a name to a model.

"mini"  "mini:variant"  "./my_system.py"  "./saved_folder"  ->  fetch what is missing  ->  build and fill  ->  Model
"./published_folder", "owner/repository" of the hub, a catalogue id with a repository
                          ->  recognise the format  ->  build at its size, fill  ->  Model
"./adapter_folder"        ->  the base that it names, as above  ->  attach  ->  Model
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from polymodal import systems
from polymodal.errors import ConfigError, UnknownName, WeightsError

if TYPE_CHECKING:
    from polymodal.api.model import Model

Progress = Callable[[str, int, int | None], None]
DTYPES = ("float32", "bfloat16", "float16")
HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+))?")


def load(
    model: str | Path,
    *,
    system: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    adapters: str | Path | Iterable[str | Path] | Mapping[str | Path, float] = (),
    progress: Progress | None = None,
    offline: bool = False,
) -> Model:
    """Load a model, fetching its weights first where they are not here yet.

    model: a catalogue id ("mini", "llava:1.5-7b"), a folder written by `Model.save`, a published checkpoint of any size
    (its folder, one official weights file, or "owner/repository@revision" of the hub), or your own system file (which
    is Python and is run).  system: what to read a published checkpoint as, when several systems share its format.
    A folder or repository that holds only a PEFT adapter is loaded with the base that it names.
    adapters: PEFT folders or repositories to attach, summed; as a mapping, with their weights.
    progress(name, bytes done, bytes in all) is called while fetching; offline refuses to.
    Raises UnknownName, WeightsError, ConfigError.
    """
    # Importing torch is most of the wait on a first load, so it counts.
    start = time.perf_counter()
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}'; expected {', '.join(DTYPES)}")
    options = systems.LoadOptions(device=device, dtype=dtype, progress=progress, offline=offline)
    named = [adapters] if isinstance(adapters, str | Path) else adapters
    weights = list(named.items()) if isinstance(named, Mapping) else [(name, 1.0) for name in named]
    folders = [(adapter_path(name, progress, offline, needed=True), weight) for name, weight in weights]
    own = adapter_path(model, progress, offline)
    if own is None:
        loaded = _load(model, system, options, start)
    else:
        loaded, folders = _load_base(own, system, options, start), [(own, 1.0), *folders]
    for folder, weight in folders:
        assert folder is not None
        loaded.attach(folder, weight=weight)
    loaded.load_seconds = time.perf_counter() - start
    return loaded


def _load(model: str | Path, system: str | None, options: systems.LoadOptions, start: float) -> Model:
    """What `load` does without adapters."""
    path = published_path(model)
    if path is not None:
        return _published(path, system, options, start)
    hub = hub_name(model)
    if hub is not None:
        path = pull_hub(*hub, system, options.progress, options.offline)
        return _published(path, system, options, start, hub[0].partition("/")[2], hub[0])
    found, variant = systems.find(address(model))
    if found.load is None:
        path = pull_repository(found, variant, options.progress, options.offline)
        source = variant.repository.name if variant.repository is not None else None
        return _published(path, found.id, options, start, variant.name, source)
    return _ours(model, options, start)


def _load_base(adapter: Path, system: str | None, options: systems.LoadOptions, start: float) -> Model:
    """The model that an adapter belongs to."""
    base = base_of(adapter)
    try:
        return _load(base, system, options, start)
    except (UnknownName, WeightsError) as error:
        own = f"pm.load(base, adapters=[{str(adapter)!r}])"
        raise type(error)(f"{adapter}: its base model {str(base)!r}: {error}; or load your copy with {own}") from error


def _ours(model: str | Path, options: systems.LoadOptions, start: float) -> Model:
    from polymodal.api import folder
    from polymodal.api.model import Model

    pull(model, progress=options.progress, offline=options.offline)
    saved = saved_folder(model)
    system, variant = systems.find(address(model))
    assert system.load is not None
    parts = system.load(variant, options)
    if saved is not None:
        folder.fill(saved, parts.model)
    parts.model.eval()
    return Model(system=system, variant=variant, parts=parts, load_seconds=time.perf_counter() - start)


def _published(
    path: Path,
    system: str | None,
    options: systems.LoadOptions,
    start: float,
    name: str | None = None,
    source: str | None = None,
) -> Model:
    """name: of the variant; source: where others find the checkpoint, when that is not its folder."""
    from polymodal.api import published
    from polymodal.api.model import Model

    found = published.recognise(path, system)
    variant, parts = published.open_folder(path, found, options, name)
    seconds = time.perf_counter() - start
    return Model(system=found.system, variant=variant, parts=parts, load_seconds=seconds, path=path, source=source)


def adapter_path(name: str | Path, progress: Progress | None, offline: bool, needed: bool = False) -> Path | None:
    """The folder of a PEFT adapter alone that a name stands for, fetched from the hub where it lies there; else None.

    needed: it must be one; raises UnknownName or WeightsError then.
    """
    from polymodal.weights.adapter_config import holds_adapter

    hub, path = hub_name(name), Path(name)
    if hub is not None and not path.is_dir():
        path = pull_hub(*hub, None, progress, offline)
    if path.is_dir() and holds_adapter(path):
        return path
    if needed and not path.is_dir():
        raise UnknownName(f"there is no adapter folder at {name}")
    if needed and not (path / "adapter_config.json").is_file():
        raise WeightsError(f"{path} holds no adapter: it has no adapter_config.json")
    return path if needed else None


def base_of(folder: Path) -> str | Path:
    """The model that a folder's adapter belongs to: a folder here, a hub id or a catalogue id.

    It is a name that somebody else wrote: it is looked up as data only, never run as a system file.  Raises ConfigError
    when there is none or one that cannot be a base, WeightsError for a folder that is not here.
    """
    from polymodal.weights.adapter_config import holds_adapter, read_config

    config = read_config(folder)
    base, own = config.base, f"pm.load(base, adapters=[{str(folder)!r}])"
    if not base:
        raise ConfigError(f"{folder} names no base model; load yours and the adapter with {own}")
    if base.partition(":")[0].endswith(".py"):
        raise ConfigError(f"{folder} names Python code as its base, {base!r}, which is not run; use {own}")
    for path in (Path(base), folder / base):
        if path.exists():
            if path.is_dir() and holds_adapter(path):
                raise ConfigError(f"{folder} names {base!r} as its base, which is an adapter itself; use {own}")
            return path
    if Path(base).is_absolute() or base.startswith((".", "~")) or "\\" in base or base.count("/") > 1:
        raise WeightsError(f"{folder}: its base model {base!r} is not on this machine; load your copy with {own}")
    return f"{base}@{config.revision}" if config.revision and "/" in base else base


def published_path(model: str | Path) -> Path | None:
    """The folder or weights file that a published checkpoint is meant by, else None."""
    from polymodal.api import published

    path = Path(model)
    return path if published.is_published(path) else None


def look(model: str | Path) -> tuple[systems.System, systems.Variant]:
    """The system and variant that a name, system file or folder stands for, without building or fetching anything.

    Raises UnknownName, WeightsError (a repository of the hub that is not here yet).
    """
    from polymodal.api import published

    own = adapter_path(model, None, offline=True)
    if own is not None:
        model = base_of(own)
    path, name = published_path(model), None
    hub = hub_name(model)
    if path is None and hub is not None:
        path, name = pull_hub(*hub, None, None, offline=True), hub[0].partition("/")[2]
    if path is None:
        return systems.find(address(model))
    found = published.recognise(path)
    return found.system, published.variant_of(path, found, name)


def pull(model: str | Path, *, progress: Progress | None = None, offline: bool = False) -> list[Path]:
    """Fetch a model's published files into the cache, each checked by hash; returns where they are.

    A broken transfer goes on where it stopped.  Raises WeightsError when a file cannot be had or is not the
    published one.
    """
    from polymodal.weights.fetch import fetch, fetch_all

    own = adapter_path(model, progress, offline)
    if own is not None:
        model = base_of(own)
    if published_path(model) is not None:
        return []
    hub = hub_name(model)
    if hub is not None:
        return [pull_hub(*hub, None, progress, offline)]
    system, variant = systems.find(address(model))
    if system.load is None:
        return [pull_repository(system, variant, progress, offline)]
    whole = [source for source in variant.weights if not isinstance(source, tuple)]
    joined = [sources for sources in variant.weights if isinstance(sources, tuple)]
    return fetch_all(whole, progress, offline) + [fetch(sources, progress, offline) for sources in joined]


def pull_repository(system: systems.System, variant: systems.Variant, progress: Progress | None, offline: bool) -> Path:
    """The folder of a variant's published checkpoint, fetched where it is not here yet."""
    from polymodal.weights.hub import fetch_repository

    if variant.repository is None:
        raise ConfigError(
            f"{system.id}:{variant.name}: no weights were released; train it, or load a folder in its "
            "checkpoint format with pm.load(folder)"
        )
    return fetch_repository(variant.repository.name, variant.repository.revision, progress, offline)


def hub_name(model: str | Path) -> tuple[str, str] | None:
    """("owner/repository", revision) where a hub id is meant; a name whose first part is a folder here is a path."""
    found = HUB.fullmatch(model) if isinstance(model, str) else None
    if found is None or Path(model).suffix == ".py" or Path(model).parts[0] == ".." or Path(model).parent.is_dir():
        return None
    return found[1], found[2] or "main"


def pull_hub(name: str, revision: str, system: str | None, progress: Progress | None, offline: bool) -> Path:
    """The folder of a checkpoint on the hub; one that no system reads is refused by its config, before its weights."""
    from polymodal.api import published
    from polymodal.weights.hub import fetch_repository

    def check(config: Path) -> None:
        published.check_config(config, system, f"hub {name}@{revision}")

    return fetch_repository(name, revision, progress, offline, check)


def saved_folder(model: str | Path) -> Path | None:
    """The folder if a folder is meant (it exists, or is written as a path), else None."""
    path = Path(model)
    return path if path.is_dir() else None


def address(model: str | Path) -> str:
    """The system that a name, a system file or a saved folder stands for; a folder may only name our own."""
    from polymodal.api import folder

    saved = saved_folder(model)
    if saved is None:
        return named(model)
    record = folder.record_of(saved)
    return f"{systems.get(record['system']).id}:{record['variant']}"


def named(model: str | Path) -> str:
    """A name as it was given; raises UnknownName for a path at which there is nothing."""
    text = str(model)
    if Path(text.partition(":")[0]).suffix != ".py" and (isinstance(model, Path) or re.search(r"[/\\]", text)):
        raise UnknownName(f"there is no folder or weights file at {text}; `polymodal systems` lists the ids")
    return text
