"""The record every system is written as, and how one is found.

A system is one file `systems/<id>.py` with a module-level `SYSTEM = System(...)`; a user's own file is the
same record.  Files are listed, not registered: nothing is imported before its id is asked for; names are exact.

    get("mini")  find("mini:variant")  find("./my_system.py")  ->  System (and Variant)
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polymodal.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from torch import nn

    from polymodal.train.recipe import Stage
    from polymodal.weights.source import Source

Slot = Literal["encoder", "connector", "backbone", "output connector", "generator"]
SLOTS: tuple[Slot, ...] = ("encoder", "connector", "backbone", "output connector", "generator")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One published size.

    parameters: how many numbers it holds.  weights: where each file comes from; a file that was cut over several
    packages is a tuple of sources.
    """

    name: str
    parameters: int
    weights: tuple[Source | tuple[Source, ...], ...] = ()
    summary: str = ""

    def files(self) -> tuple[Source, ...]:
        """All sources one by one."""
        return tuple(part for each in self.weights for part in (each if isinstance(each, tuple) else (each,)))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One box of the drawing: which of the five modules, what goes in and comes out (shapes in words).

    prefix: dotted start of its parameter names in the built model; "" for a part that is loaded beside it, whose
    number of parameters is then given.  tokens: tokens per item it hands on.
    """

    slot: Slot
    name: str
    prefix: str
    takes: str
    gives: str
    modality: str = "text"
    tokens: int | None = None
    parameters: int = 0


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
class Assembled:
    """A loaded system as parts.

    model: the assembly.  processor: messages -> batch.  The functions are None where a system cannot do it:
    transcribe(Audio) -> str; score(media, labels) -> probabilities [len(labels)] that sum to 1;
    embed(items) -> float32 [N, D], rows of length 1.  text() -> the assembly that answers conversations without
    media, where that is not `model` itself; called when the first one comes.
    """

    model: Any
    processor: Any
    text: Callable[[], Any] | None = None
    transcribe: Callable[[Any], str] | None = None
    score: Callable[[Any, Sequence[str]], Any] | None = None
    embed: Callable[[Sequence[Any]], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class System:
    """One work of the survey, or a user's own.

    names: how it is called in print.  fusion: letters A to D.  assembly: class name in `assemblies`.
    inputs, outputs: modalities.  variants: the first is the default.  headline: the one thing it is counted
    for.  sheet: the paper or page.  build(variant) -> module with fresh weights (also on the meta device);
    parts(variant) -> the drawing; load(variant, LoadOptions) -> Assembled; recipe: training stages, empty
    when none is published.
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
    build: Callable[[Variant], nn.Module]
    parts: Callable[[Variant], tuple[Part, ...]]
    load: Callable[[Variant, LoadOptions], Assembled]
    recipe: tuple[Stage, ...] = ()

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


def ids() -> list[str]:
    """The ids of all systems, sorted; reads file names only."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def get(id: str) -> System:
    """The system of exactly this id; raises UnknownName."""
    if id not in ids():
        raise unknown("model", id, ids())
    return _checked(importlib.import_module(f"polymodal.systems.{id}"), f"systems/{id}.py", id)


def find(address: str) -> tuple[System, Variant]:
    """The system and variant of "id", "id:variant", "./file.py" or "./file.py:variant".

    A file is Python and is run: only name files you trust.  Raises UnknownName or ConfigError.
    """
    name, separator, variant = address.partition(":")
    system = _from_file(Path(name)) if name.endswith(".py") else get(name)
    return system, system.variant(variant if separator else None)


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
    if id is not None and system.id != id:
        raise ConfigError(f"{place} must hold the system '{id}'; its record says '{system.id}'")
    if not system.variants:
        raise ConfigError(f"{place}: a system needs at least one variant")
    return system
