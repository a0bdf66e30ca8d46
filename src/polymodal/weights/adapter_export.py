"""The way back of adapters.py: what a module has, as a folder that PEFT loads with equal outputs.

    low-rank changes by our paths  --key table, inverted-->  changes by the names of the library's class  ->  folder

Traps: an adapter that was cut over several of our linears is written as one again, of as many ranks as training left
different; a config is only written anew where ranks, scales or modules are not those it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.lora import LoRAEmbedding, LowRank, lora_changes
from polymodal.weights.adapter_config import AdapterConfig
from polymodal.weights.adapter_files import Adapter, write_adapter
from polymodal.weights.adapters import Attached, tensor_of
from polymodal.weights.keytable import KeyTable
from polymodal.weights.low_rank_rows import carry, trimmed
from polymodal.weights.report import Use


def save_adapter(
    module: nn.Module,
    folder: Path,
    table: KeyTable,
    attached: Attached | None = None,
    *,
    name: str = "default",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write what is attached, or what `apply_lora` made under a name, as a PEFT folder; table: our names in PEFT's.

    metadata: entries of adapter_config.json such as base_model_name_or_path.  Raises ConfigError, WeightsError.
    """
    name, table = (name, table) if attached is None else (attached.name, attached.table)
    found = lora_changes(module, name)
    originals = {} if attached is None else attached.originals
    if not found and not originals:
        raise ConfigError(f"the model has no adapter {name!r} to save")
    config = AdapterConfig(targets=()) if attached is None else attached.adapter.config
    if any(change.magnitude is not None for change in found.values()):
        config = replace(config, dora=True)
    changes, embeddings = _published(module, found, table)
    tensors = _published_tensors(module, attached) if attached is not None else {}
    adapter = Adapter(folder=folder, config=config, changes=changes, embeddings=embeddings, tensors=tensors)
    return write_adapter(folder, adapter, metadata)


def _published(
    module: nn.Module, found: Mapping[str, LowRank], table: KeyTable
) -> tuple[dict[str, LowRank], frozenset[str]]:
    """Our changes under the library's names, and which of them are embeddings.

    Raises WeightsError for one that would not be found under its name again.
    """
    back = table.inverse()
    uses: dict[tuple[str, ...], Use] = {}
    for path in found:
        use = back.use_of(f"{path}.weight")
        if use is None or not use.targets:
            raise WeightsError(f"{path!r} has an adapter and no name in published checkpoints; it cannot be saved")
        for target in use.targets:
            again = table.use_of(target) if target.endswith(".weight") else None
            if again is None or set(again.targets) != set(use.sources):
                raise WeightsError(
                    f"{path!r} has an adapter, but is {target!r} in published checkpoints, which is no linear that an "
                    "adapter file could name; adapt other parts, or merge_lora() and save the whole model"
                )
        uses[use.targets] = use
    changes: dict[str, LowRank] = {}
    embeddings = set()
    for use in uses.values():
        paths = [source.removesuffix(".weight") for source in use.sources]
        embedding = any(isinstance(module.get_submodule(path), LoRAEmbedding) for path in paths)
        theirs = [target.removesuffix(".weight") for target in use.targets]
        shapes = [tensor_of(module, source).shape for source in use.sources]
        for path, change in zip(theirs, carry(back.rows[use.row], [found.get(p) for p in paths], shapes, embedding),
                                strict=True):  # fmt: skip
            changes[path] = trimmed(change) if len(theirs) > 1 else change
        embeddings |= set(theirs) if embedding else set()
    return changes, frozenset(embeddings)


def _published_tensors(module: nn.Module, attached: Attached) -> dict[str, Tensor]:
    """The whole tensors as they are now, under the names that the folder had."""
    tensors = {}
    for name in attached.adapter.tensors:
        use = attached.table.use_of(name)
        if use is not None and set(use.targets) & attached.originals.keys():
            row = attached.table.rows[use.row]
            now = row.inverse().convert([tensor_of(module, target).detach() for target in use.targets])
            tensors[name] = dict(zip(use.sources, now, strict=True))[name]
        else:
            tensors[name] = attached.adapter.tensors[name]
    return tensors
