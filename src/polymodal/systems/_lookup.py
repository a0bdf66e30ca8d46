"""How a system is found.  Files are listed, not registered: nothing is imported before its id is asked for.

    get("mini")  find("mini:variant")  find("./my_system.py")  ->  System (and Variant)

The stem of an entry is its id with `-` and `.` as `_`; any name a system is called by in print finds it too, and
`llava:1.5-7b` finds variant `7b` of `llava-1.5`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError, UnknownName
from polymodal.fields import explained
from polymodal.systems import _recognition
from polymodal.systems._record import System, Variant, unknown


def stems() -> list[str]:
    """Names of all entries, files and folders, sorted; nothing is imported."""
    here = Path(__file__).parent
    found = [*here.glob("*.py"), *(path.parent for path in here.glob("*/__init__.py"))]
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


def ids() -> list[str]:
    """The ids of all systems, sorted; every file is read."""
    return sorted(system.id for system in every())


def every() -> list[System]:
    """All systems, by file name."""
    return [_read(stem) for stem in stems()]


def candidates(config: Mapping[str, Any]) -> list[System]:
    """The systems that may read a checkpoint with this config.json; of a file without one, those that read shapes.

    Only they are imported: `_recognition.py` is the table of the words by which their formats know a config.
    """
    if not config:
        return [_read(stem) for stem in _recognition.SHAPES]
    named = config.get("architectures")
    words = [
        (_recognition.MODEL_TYPES, [config.get("model_type")]),
        (_recognition.ARCHITECTURES, named if isinstance(named, list) else []),
        (_recognition.KEYS, list(config)),
    ]
    found = {stem for table, said in words for word in said if isinstance(word, str) for stem in table.get(word, ())}
    return [_read(stem) for stem in sorted(found)]


def get(id: str) -> System:
    """The system of this id, or called by this name; raises UnknownName."""
    stem = re.sub(r"[-.]", "_", id)
    if stem in stems():
        return _read(stem)
    # What has no plain form ("???", names in other letters) is found by itself alone.
    wanted = plain(id) if id.isascii() and plain(id) else id
    for system in every():
        if wanted in {plain(name) or name for name in (system.id, *system.aliases)}:
            return system
    raise unknown("model", id, ids())


def plain(name: str) -> str:
    """A name without what people spell differently: case, spaces, hyphens and dots."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read(stem: str) -> System:
    name, here = f"polymodal.systems.{stem}", Path(__file__).parent
    path = here / stem / "__init__.py" if (here / stem).is_dir() else here / f"{stem}.py"
    with explained(path, _records()):
        module = importlib.import_module(name)
    return _checked(module, f"systems/{stem}.py", stem)


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
        joined = plain(f"{name}{variant}") if variant and plain(name) and name.isascii() else ""
        for system in every() if joined else ():
            for each in system.variants:
                if joined in {plain(called + each.name) for called in (system.id, *system.aliases)}:
                    return system, each
        raise


class _Source(importlib.machinery.SourceFileLoader):
    """Runs what the file says; a compiled one beside it may be of another source, and is left alone."""

    def get_code(self, fullname: str) -> Any:
        data = self.get_data(self.path)
        wanted = _required.get(self.path)
        if wanted is not None and hashlib.sha256(data).hexdigest() != wanted:
            raise ConfigError(f"{self.path} has changed since it was looked at; it was not run")
        return self.source_to_code(data, self.path)


_required: dict[str, str] = {}


def require(path: Path, sha256: str | None) -> None:
    """A file that is run only while it has this sha256; None: whatever it has become, since the user named it."""
    _required.pop(str(path), None)
    if sha256 is not None:
        _required[str(path)] = sha256


def _from_file(path: Path) -> System:
    if not os.path.isfile(path):
        raise UnknownName(f"no system file at {path}; expected a Python file with SYSTEM = System(...)")
    name = f"polymodal_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with explained(path, _records()):
        spec.loader.exec_module(module)
    return _checked(module, str(path), None)


def _records() -> dict[str, Any]:
    """The records that a system is written with, by the names of their classes."""
    from polymodal import systems

    named = {name: getattr(systems, name) for name in systems.__all__}
    return {name: each for name, each in named.items() if isinstance(each, type) and is_dataclass(each)}


def _checked(module: Any, where: str, id: str | None) -> System:
    system = getattr(module, "SYSTEM", None)
    if not isinstance(system, System):
        raise ConfigError(f"{where} must hold SYSTEM = System(...); found {type(system).__name__}")
    if id is not None and re.sub(r"[-.]", "_", system.id) != id:
        raise ConfigError(f"{where} must hold the system '{id}'; its record says '{system.id}'")
    if not system.variants:
        raise ConfigError(f"{where}: a system needs at least one variant")
    for kind, each in (("variant", system.variants), ("stage", system.recipe)):
        names = [record.name for record in each]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{where}: two of {system.id} have the same name, {kind} {twice[0]!r}")
    for variant in system.variants:
        if system.formats and not 0 <= variant.format < len(system.formats):
            raise ConfigError(f"{where}: variant {variant.name} is of format {variant.format}, but formats has "
                              f"{len(system.formats)}; the first is 0")  # fmt: skip
    whole = system.build is not None and system.parts is not None and system.load is not None
    if not (system.formats or whole or system.is_agent):
        raise ConfigError(
            f"{where}: a system needs formats, or build, parts and load; an agent (0 parameters) needs load"
        )
    return system
