"""The record every system is written as, and how one is found.

A system is one file `systems/<id>.py` with a module-level `SYSTEM = System(...)`; a user's own file is the
same record.  Files are listed, not registered: nothing is imported before its id is asked for; names are exact.

    get("mini")  find("mini:variant")  find("./my_system.py")  ->  System (and Variant)

The stem of a file is its id with `-` and `.` as `_`; any name a system is called by in print finds it too, and
`llava:1.5-7b` finds variant `7b` of `llava-1.5`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.errors import ConfigError, UnknownName
from polymodal.layouts.record import Assembled, Part

if TYPE_CHECKING:
    from torch import nn

    from polymodal.layouts.record import Layout, Opened, Repository
    from polymodal.train.recipe import Stage
    from polymodal.weights.source import Source

@dataclass(frozen=True, kw_only=True)
class Variant:
    """One published size.

    parameters: how many numbers it holds.  weights: where each file comes from; a file that was cut over several
    packages is a tuple of sources.  config: what its published config.json says, for systems with layouts; layout: the
    place of the one it is written in.  repository: where the whole checkpoint lies.
    """

    name: str
    parameters: int
    weights: tuple[Source | tuple[Source, ...], ...] = ()
    summary: str = ""
    config: Mapping[str, Any] | None = None
    layout: int = 0
    repository: Repository | None = None

    def files(self) -> tuple[Source, ...]:
        """All sources one by one."""
        return tuple(part for each in self.weights for part in (each if isinstance(each, tuple) else (each,)))


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to load.  dtype: a torch name such as "float32".  The files of the variant have been fetched before;
    progress and offline are for those that a system fetches only when they are needed (see `weights.fetch`).
    """

    device: str = "cpu"
    dtype: str = "float32"
    progress: Callable[[str, int, int | None], None] | None = None
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class System:
    """One work of the survey, or a user's own.

    names: how it is called in print.  fusion: letters A to D.  assembly: class name in `assemblies`.
    inputs, outputs: modalities.  variants: the first is the default.  headline: the one thing it is counted
    for.  sheet: the paper or page.  layouts: the published checkpoints it reads at any size; its variants then give a
    config, and nothing more is needed.  Systems of another kind give build(variant) -> module with fresh weights (also
    on the meta device); parts(variant) -> the drawing; load(variant, LoadOptions) -> Assembled.  recipe: training
    stages, empty when none is published.
    """

    id: str
    names: tuple[str, ...]
    year: int
    fusion: tuple[str, ...]
    assembly: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variants: tuple[Variant, ...]
    headline: str
    sheet: str
    layouts: tuple[Layout, ...] = ()
    build: Callable[[Variant], nn.Module] | None = None
    parts: Callable[[Variant], tuple[Part, ...]] | None = None
    load: Callable[[Variant, LoadOptions], Assembled] | None = None
    recipe: tuple[Stage, ...] = ()

    def opened(self, variant: Variant) -> Opened:
        """What the variant's published config describes; raises ConfigError for a system without layouts."""
        if not self.layouts or variant.config is None:
            raise ConfigError(f"{self.id}:{variant.name} is not read from a published config")
        return self.layouts[variant.layout].opened(variant.config)

    def module(self, variant: Variant) -> nn.Module:
        """The variant with fresh weights, also on the meta device."""
        return self.opened(variant).build() if self.build is None else self.build(variant)

    def drawing(self, variant: Variant) -> tuple[Part, ...]:
        """The boxes of `show`."""
        return self.opened(variant).parts if self.parts is None else self.parts(variant)

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name, the first one for None; raises UnknownName."""
        if name is None:
            return self.variants[0]
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise unknown(f"variant of {self.id}", name, [variant.name for variant in self.variants])


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that does not exist: the nearest one if there is one, else the choices."""
    choices = sorted(known)
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(choices)}"
    return UnknownName(f"unknown {kind} '{name}'; {hint}")


def stems() -> list[str]:
    """File names of all systems, sorted; nothing is imported."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def ids() -> list[str]:
    """The ids of all systems, sorted; every file is read."""
    return sorted(system.id for system in every())


def every() -> list[System]:
    """All systems, by file name."""
    return [_read(stem) for stem in stems()]


def get(id: str) -> System:
    """The system of this id, or called by this name; raises UnknownName."""
    stem = re.sub(r"[-.]", "_", id)
    if stem in stems():
        return _read(stem)
    wanted = plain(id)
    for system in every():
        if wanted in {plain(name) for name in (system.id, *system.names)}:
            return system
    raise unknown("model", id, ids())


def plain(name: str) -> str:
    """A name without what people spell differently: case, spaces, hyphens and dots."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read(stem: str) -> System:
    return _checked(importlib.import_module(f"polymodal.systems.{stem}"), f"systems/{stem}.py", stem)


def find(address: str) -> tuple[System, Variant]:
    """The system and variant of "id", "id:variant", "./file.py" or "./file.py:variant".

    A file is Python and is run: only name files you trust.  Raises UnknownName or ConfigError.
    """
    name, separator, variant = address.partition(":")
    if not name.endswith(".py"):
        return _named(name, variant if separator else None)
    system = _from_file(Path(name))
    return system, system.variant(variant if separator else None)


def _named(name: str, variant: str | None) -> tuple[System, Variant]:
    """A system of the catalogue and its variant; "llava:1.5-7b" is 7b of llava-1.5 when llava has no such variant."""
    try:
        system = get(name)
        return system, system.variant(variant)
    except UnknownName:
        joined = plain(f"{name}{variant}") if variant else ""
        for system in every() if joined else ():
            for each in system.variants:
                if joined in {plain(called + each.name) for called in (system.id, *system.names)}:
                    return system, each
        raise


def _from_file(path: Path) -> System:
    if not path.is_file():
        raise UnknownName(f"no system file at {path}; expected a Python file with SYSTEM = System(...)")
    name = f"polymodal_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == str(path)]
        line = problem.lineno if isinstance(problem, SyntaxError) else lines[-1] if lines else "?"
        raise ConfigError(f"{path}, line {line}: {type(problem).__name__}: {problem}") from problem
    return _checked(module, str(path), None)


def _checked(module: Any, place: str, id: str | None) -> System:
    system = getattr(module, "SYSTEM", None)
    if not isinstance(system, System):
        raise ConfigError(f"{place} must hold SYSTEM = System(...); found {type(system).__name__}")
    if id is not None and re.sub(r"[-.]", "_", system.id) != id:
        raise ConfigError(f"{place} must hold the system '{id}'; its record says '{system.id}'")
    if not system.variants:
        raise ConfigError(f"{place}: a system needs at least one variant")
    if not system.layouts and (system.build is None or system.parts is None or system.load is None):
        raise ConfigError(f"{place}: a system needs layouts, or build, parts and load")
    return system
