"""`pm.load` and `pm.pull`: from a name to a model.

"mini"  "mini:variant"  "./my_system.py"  "./saved_folder"  ->  fetch what is missing  ->  build and fill  ->  Model
"./published_folder", "owner/repository" of the hub, a catalogue id with a repository
                          ->  recognise the format  ->  build at its size, fill  ->  Model
"./adapter_folder"        ->  the base that it names, as above  ->  attach  ->  Model
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from polymodal import systems
from polymodal.api.code import code_of, named_by_user, system_file
from polymodal.api.paths import as_path, require_model, require_one_meaning
from polymodal.checkpoints.record import LoadedModel
from polymodal.errors import ConfigError, UnknownName, WeightsError
from polymodal.fields import returned
from polymodal.weights.placement import AUTO, Placement, placement

if TYPE_CHECKING:
    import torch

    from polymodal.api.model import Model

Progress = Callable[[str, int, int | None], None]
HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+))?")


def load(
    model: str | Path,
    *,
    system: str | None = None,
    device: str | torch.device = AUTO,
    dtype: str | torch.dtype = AUTO,
    quantise: str | None = None,
    mmap: bool = True,
    adapters: str | Path | Iterable[str | Path] | Mapping[str | Path, float] = (),
    progress: Progress | None = None,
    offline: bool = False,
) -> Model:
    """Load a model, fetching its weights first where they are not here yet.

    model: a catalogue id ("mini", "llava:1.5-7b"; "./mini" is a folder of that name), a folder written by `Model.save`,
    a published checkpoint of any size (its folder, one official weights file, "owner/repository@revision" of the hub),
    or your own system file (which is Python and is run).  system: what to read a published checkpoint as, when several
    systems share its format, or your own system file.
    device: "auto" is a CUDA device with room for it, else the CPU.  dtype: "auto" is the checkpoint's own, but float32
    for float16 on a CPU (weights/placement.py says why); "float32", "bfloat16", "float16", "float64".  quantise: "int8"
    or "int4" keeps the linears of the language model as 8-bit or 4-bit numbers, for inference alone (nn/quantise.py).
    mmap: weights that are stored as they are wanted stay in the pages of their files, as in `transformers`: loading is
    fast and processes share them.  False reads them: files that are written over in place while a model is in use
    (not replaced, as downloads and `save` do it) would change or break a mapped model.
    A folder or repository that holds only a PEFT adapter is loaded with the base that it names.
    adapters: PEFT folders or repositories to attach, summed; as a mapping, with their weights.
    progress(name, bytes done, bytes in all) is called while fetching; offline refuses to.
    Raises UnknownName, WeightsError, ConfigError.
    """
    # Importing torch is most of the wait on a first load, so it counts.
    start = time.perf_counter()
    as_path(model, "model")
    named_by_user(model, system)
    asked = Asked(place=placement(device, dtype, quantise, mmap), progress=progress, offline=offline, start=start)
    if not isinstance(adapters, str | Path | Iterable):
        raise ConfigError(f"adapters: expected folders or repositories, found {adapters!r}")
    named = [adapters] if isinstance(adapters, str | Path) else adapters
    weights = list(named.items()) if isinstance(named, Mapping) else [(name, 1.0) for name in named]
    folders = [(adapter_folder(name, progress, offline), weight) for name, weight in weights]
    for folder, _ in folders:
        require_whole(asked.place, folder)
    loaded = _load(model, system, replace(asked, adapters=tuple(folder for folder, _ in folders)))
    for folder, weight in folders:
        loaded.attach(folder, weight=weight)
    loaded.load_seconds = time.perf_counter() - start
    return loaded


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a model was asked for; start: when; adapters: the folders that are attached to it afterwards."""

    place: Placement
    progress: Progress | None
    offline: bool
    start: float
    adapters: tuple[Path, ...] = ()

    def options(self, variant: systems.Variant) -> systems.LoadOptions:
        """What a system with a `load` of its own is told; such systems compute in float32 unless asked otherwise."""
        import torch

        device, dtype = self.place.of(torch.float32, variant.parameters)
        name = str(dtype).removeprefix("torch.")
        return systems.LoadOptions(device=str(device), dtype=name, quantise=self.place.quantise,
                                   progress=self.progress, offline=self.offline)  # fmt: skip


def _load(model: str | Path, system: str | None, asked: Asked, adapter: Path | None = None) -> Model:
    """The model of a name.  adapter: the folder whose base it is."""
    path, name, source = published_path(model), None, None
    hub = hub_name(model)
    if path is None and hub is not None:
        path = pull_hub(*hub, system, asked.progress, asked.offline)
        name, source = hub[0].partition("/")[2], hub[0]
    if path is None:
        called = address(model, system)
        found, variant = systems.find(called)
        if found.load is not None:
            return _ours(model, called, asked)
        path = pull_repository(found, variant, asked.progress, asked.offline)
        system, name = called if system_file(called) else found.id, variant.name
        source = variant.repository.name if variant.repository is not None else None
    require_one_meaning(path, asked.adapters)
    base = base_of(path, adapter)
    if base is None:
        return _published(path, system, asked, name, source)
    require_whole(asked.place, path)
    try:
        loaded = _load(base, system, asked, path)
    except (UnknownName, WeightsError) as error:
        own = f"pm.load(base, adapters=[{str(path)!r}])"
        about = f"{path} is an adapter; its base model {str(base)!r}: {error}"
        raise type(error)(f"{about}; or load your copy with {own}") from error
    loaded.attach(path)
    return loaded


def require_whole(place: Placement, adapter: Path) -> None:
    """Raises ConfigError where an adapter would meet quantised weights."""
    if place.quantise is not None:
        raise ConfigError(f"the adapter {adapter} needs whole weights to be attached to; load it without quantise")


def _ours(model: str | Path, named: str, asked: Asked) -> Model:
    """A system with a `load` of its own, of this name or system file; model: what was asked for."""
    from polymodal.api import folder
    from polymodal.api.model import Model
    from polymodal.nn.quantise import is_quantised

    _pull(named, asked.progress, asked.offline)
    saved = saved_folder(model)
    system, variant = systems.find(named)
    assert system.load is not None
    parts = returned(system.load(variant, asked.options(variant)), LoadedModel, f"{system.id}:{variant.name}: load")
    if asked.place.quantise is not None and not is_quantised(parts.model):
        raise ConfigError(f"{system.id} has no {asked.place.quantise} form; load it without quantise")
    if saved is not None:
        folder.fill(saved, parts.model)
    parts.model.eval()
    seconds = time.perf_counter() - asked.start
    return Model(system=system, variant=variant, parts=parts, load_seconds=seconds, code=system_file(named))


def _published(path: Path, system: str | None, asked: Asked, name: str | None, source: str | None) -> Model:
    """name: of the variant; source: where others find the checkpoint, when that is not its folder."""
    from polymodal.api import published
    from polymodal.api.model import Model

    found = published.recognise(path, system, name)
    variant, parts = published.open_folder(path, found, asked.place, name)
    seconds = time.perf_counter() - asked.start
    return Model(system=found.system, variant=variant, parts=parts, load_seconds=seconds, path=path, source=source,
                 code=found.code)  # fmt: skip


def adapter_folder(name: str | Path, progress: Progress | None, offline: bool) -> Path:
    """The folder of a PEFT adapter, fetched from the hub where it lies there.  Raises UnknownName or WeightsError."""
    hub, path = hub_name(name), as_path(name, "adapters")
    if hub is not None and not os.path.isdir(path):
        path = pull_hub(*hub, None, progress, offline)
    if not os.path.isdir(path):
        raise UnknownName(f"there is no adapter folder at {name}")
    return path


def base_of(folder: Path, above: Path | None = None) -> str | Path | None:
    """The model that a folder's adapter belongs to, a folder, a hub id or a catalogue id; None for another folder.

    above: the adapter that named this folder as its base.  The base is a name that somebody else wrote: it is looked up
    as data only, never run as a system file.  Raises ConfigError when there is none or one that cannot be a base,
    WeightsError for a folder that is not here.
    """
    from polymodal.weights.adapter_config import holds_adapter, read_config

    if not (folder.is_dir() and holds_adapter(folder)):
        return None
    if above is not None:
        raise ConfigError(f"{above} names {str(folder)!r} as its base, which is an adapter itself; expected a model")
    config = read_config(folder)
    base, own = config.base, f"pm.load(base, adapters=[{str(folder)!r}])"
    if not base:
        raise ConfigError(f"{folder} is an adapter and names no base model; load yours and the adapter with {own}")
    if base.partition(":")[0].endswith(".py"):
        raise ConfigError(f"{folder} names Python code as its base, {base!r}, which is not run; use {own}")
    for path in (Path(base), folder / base):
        if os.path.exists(path):
            return path
    if Path(base).is_absolute() or base.startswith((".", "~")) or "\\" in base or base.count("/") > 1:
        raise WeightsError(f"{folder}: its base model {base!r} is not on this machine; load your copy with {own}")
    return f"{base}@{config.revision}" if config.revision and "/" in base else base


def published_path(model: str | Path) -> Path | None:
    """The folder or weights file that a published checkpoint is meant by, else None; WeightsError for another file."""
    from polymodal.api import published

    path = Path(model)
    if is_catalogue_name(model):
        return None
    require_model(path)
    return path if published.is_published(path) else None


def is_catalogue_name(model: str | Path) -> bool:
    """Whether a name is meant by its place in the catalogue although there is a folder or file of that name here."""
    text = str(model)
    if isinstance(model, Path) or re.search(r"[/\\]", text) or text.endswith(".py") or not os.path.exists(text):
        return False
    try:
        system, variant = systems.find(text)
    except UnknownName:
        return False
    warnings.warn(
        f"{text!r} is {system.id}:{variant.name} of the catalogue; the one here is meant by './{text}'", stacklevel=1
    )
    return True


def look(model: str | Path, *, system: str | None = None) -> tuple[systems.System, systems.Variant]:
    """The system and variant that a name, system file or folder stands for, without building or fetching anything.

    Of an adapter alone they are those of its base.  system: what to read a published folder as.  Raises UnknownName,
    WeightsError (a repository of the hub that is not here yet).
    """
    named_by_user(model, system)
    looked = look_at(model, system)
    return looked.system, looked.variant


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a name stands for.  path: the published folder or weights file, None for a name of the catalogue, a system
    file and a folder that such a system saved; name: of its repository on the hub."""

    system: systems.System
    variant: systems.Variant
    path: Path | None = None
    name: str | None = None


def look_at(model: str | Path, system: str | None = None, adapter: Path | None = None) -> Looked:
    """`look` with where it was found.  adapter: the folder whose base is looked at."""
    from polymodal.api import published

    path, name = published_path(model), None
    hub = hub_name(model)
    if path is None and hub is not None:
        path, name = pull_hub(*hub, None, None, offline=True), hub[0].partition("/")[2]
    if path is None:
        found, variant = systems.find(address(model))
        return Looked(system=found, variant=variant)
    base = base_of(path, adapter)
    if base is not None:
        return look_at(base, system, path)
    recognised = published.recognise(path, system, name)
    variant = published.variant_of(path, recognised, name)
    return Looked(system=recognised.system, variant=variant, path=path, name=name)


def pull(model: str | Path, *, progress: Progress | None = None, offline: bool = False) -> list[Path]:
    """Fetch a model's published files into the cache, each checked by hash; returns where they are.

    Of an adapter its base is fetched too; "kokoro" stands for the voices of `pm.voice`, "data:NAME" for a prepared set
    of pictures or sounds.  Interrupted downloads are
    resumed.  Raises WeightsError when a file cannot be had or is not the published one.
    """
    if str(model).startswith("data:"):
        from polymodal.api.data_sets import data_set

        return [data_set(str(model), progress=progress, offline=offline)]
    if model == "kokoro":
        from polymodal.pipelines.speaking.speaker import pull_voices

        return pull_voices(progress, offline)
    named_by_user(model)
    return _pull(model, progress, offline)


def _pull(model: str | Path, progress: Progress | None, offline: bool, adapter: Path | None = None) -> list[Path]:
    from polymodal.weights.fetch import fetch, fetch_all

    path, hub = published_path(model), hub_name(model)
    fetched = []
    if path is None and hub is not None:
        path = pull_hub(*hub, None, progress, offline)
        fetched = [path]
    if path is not None:
        base = base_of(path, adapter)
        return fetched + ([] if base is None else _pull(base, progress, offline, path))
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
    variant.require_whole(f"{system.id}:{variant.name}")
    return fetch_repository(variant.repository.name, variant.repository.revision, progress, offline)


def hub_name(model: str | Path) -> tuple[str, str] | None:
    """("owner/repository", revision) where a hub id is meant; a name whose first part is a folder here is a path."""
    found = HUB.fullmatch(model) if isinstance(model, str) else None
    if (
        found is None
        or Path(model).suffix == ".py"
        or Path(model).parts[0] == ".."
        or os.path.isdir(Path(model).parent)
    ):
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
    """The folder if one is meant, else None."""
    return Path(model) if os.path.isdir(model) and not is_catalogue_name(model) else None


def address(model: str | Path, system: str | None = None) -> str:
    """The system that a name, a system file or a saved folder stands for.

    system: the file of a folder that was saved from a user's own; without it only one that this user has run before is
    run (api/code.py).
    """
    from polymodal.api import folder

    saved = saved_folder(model)
    if saved is None:
        return named(model)
    record = folder.record_of(saved)
    code = code_of(record, saved) if system is None else system_file(system)
    return f"{systems.get(record['system']).id if code is None else code}:{record['variant']}"


def named(model: str | Path) -> str:
    """A name as it was given; raises UnknownName for a path at which there is nothing."""
    text = str(model)
    if Path(text.partition(":")[0]).suffix != ".py" and (isinstance(model, Path) or re.search(r"[/\\]", text)):
        raise UnknownName(f"there is no folder or weights file at {text}; `polymodal systems` lists the ids")
    return text
