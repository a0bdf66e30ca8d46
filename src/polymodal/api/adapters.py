"""Adapters of a loaded model: what is attached, by the folders it came from.

pm.load(base, adapters=["folder"])   model.attach(folder)   model.detach()   model.merge()   model.save_adapter(...)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from polymodal.errors import ConfigError, UnknownName
from polymodal.nn.lora import DEFAULT, lora_changes
from polymodal.weights.adapter_export import save_adapter
from polymodal.weights.adapter_files import read_adapter
from polymodal.weights.adapters import Attached, attach, detach, merge

if TYPE_CHECKING:
    from torch import nn

    from polymodal.weights.keytable import KeyTable


class Adapters:
    """The adapters of one module.

    tables() -> spellings of its published names, the one to write first; source: what a new adapter names as its base.
    """

    def __init__(self, module: nn.Module, tables: Callable[[], tuple[KeyTable, ...]], source: str) -> None:
        self._module = module
        self._tables = tables
        self._source = source
        self.attached: list[Attached] = []

    def __bool__(self) -> bool:
        return bool(self.attached)

    def attach(self, folder: Path, weight: float = 1.0) -> None:
        """Attach a PEFT folder beside what is attached; weight: of its low-rank part.  WeightsError, ConfigError."""
        adapter = read_adapter(folder)
        found = attach(
            self._module, adapter, self._tables(), name=self._free(folder), weight=weight, beside=self.attached
        )
        self.attached.append(found)

    def detach(self, folder: Path | None = None) -> None:
        """Take one folder's adapter off, or all.  Raises UnknownName for one that is not attached."""
        for found in self._chosen(folder):
            detach(self._module, found)
            self.attached.remove(found)

    def merge(self, folder: Path | None = None) -> None:
        """Write one folder's adapter into the weights, or all."""
        for found in self._chosen(folder):
            merge(self._module, found)
            self.attached.remove(found)

    def save(self, target: Path, folder: Path | None = None) -> Path:
        """Write the adapter that is attached (of several the one of `folder`), or what `apply_lora` made, for PEFT."""
        chosen = self._chosen(folder)
        if len(chosen) > 1:
            names = ", ".join(str(each.adapter.folder) for each in chosen)
            raise ConfigError(f"{len(chosen)} adapters are attached ({names}); say which to save")
        if not chosen:
            named = {"base_model_name_or_path": self._source}
            return save_adapter(self._module, target, self._tables()[0], metadata=named)
        (found,) = chosen
        named = {} if found.adapter.config.base else {"base_model_name_or_path": self._source}
        return save_adapter(self._module, target, found.table, found, metadata=named)

    def _chosen(self, folder: Path | None) -> list[Attached]:
        if folder is None:
            return list(self.attached)
        found = [each for each in self.attached if each.adapter.folder.absolute() == folder.absolute()]
        if not found:
            names = ", ".join(str(each.adapter.folder) for each in self.attached) or "none"
            raise UnknownName(f"no adapter of {folder} is attached; attached: {names}")
        return found

    def _free(self, folder: Path) -> str:
        """A name for a folder's adapter that no other has."""
        stem = re.sub(r"\W", "_", folder.absolute().name) or DEFAULT
        taken = {each.name for each in self.attached}
        names = [stem, *(f"{stem}_{number}" for number in range(2, len(taken) + 3))]
        return next(name for name in names if name not in taken and not lora_changes(self._module, name))
