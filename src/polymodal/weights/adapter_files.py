"""Adapter folders as the PEFT library writes them: a config, and the tensors by module.

    adapter_config.json  (adapter_config.py)
    adapter_model.safetensors | adapter_model.bin
        base_model.model.<module>.lora_A.weight [r, in]   .lora_B.weight [out, r]   .lora_magnitude_vector [out]
        base_model.model.<module>.lora_embedding_A [r, V] .lora_embedding_B [D, r]
        base_model.model.<tensor>                         whole tensors: trained biases, `modules_to_save`, and
                                                          embedding and head where PEFT was asked for them

Module names are those of the library's class in memory, which differ from the names of a checkpoint on disk.
Traps: `.base_layer.` stands in the names of biases (and of a saved embedding) of adapted modules; with bias "all" PEFT
also stores biases of modules that are saved whole two more times.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.lora import LowRank
from polymodal.weights.adapter_config import CONFIG, AdapterConfig, as_dict, read_config
from polymodal.weights.export import save_safetensors, whole_file
from polymodal.weights.read import TensorFile, read, read_torch

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
_MAX_COMPARED = 4_000_000
_LEAF = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_[AB]|lora_magnitude_vector(?:\.weight)?)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """A read folder.  changes: by module; embeddings: which of them are embeddings; tensors: whole ones by name."""

    folder: Path
    config: AdapterConfig
    changes: Mapping[str, LowRank]
    embeddings: frozenset[str] = frozenset()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def read_adapter(folder: Path) -> Adapter:
    """Config and tensors of a folder; raises WeightsError unless they belong together; see parse_config."""
    config, tensors = read_config(folder), _open(folder)
    leaves: dict[str, dict[str, str]] = {}
    whole: dict[str, Tensor] = {}
    for key in tensors:
        name = key.removeprefix(PREFIX)
        if name == key:
            raise WeightsError(f"{folder}: the tensor {key!r} is not named by PEFT; expected {PREFIX}...")
        found = _LEAF.fullmatch(name)
        if found is not None:
            leaves.setdefault(found[1], {})[found[2].removesuffix(".weight")] = key
        elif ".original_module." not in name:
            whole[name] = tensors[key]
    if not leaves and not whole:
        raise WeightsError(f"{folder}: the adapter holds no tensor")
    patterns = len(config.rank_pattern) + len(config.alpha_pattern)
    if len(leaves) * patterns > _MAX_COMPARED:
        raise WeightsError(
            f"{folder}: {patterns:,} patterns for {len(leaves):,} modules; expected names of few modules"
        )
    changes = {module: _change(folder, config, module, parts, tensors) for module, parts in leaves.items()}
    return Adapter(folder=folder, config=config, changes=changes, tensors=_whole(folder, whole),
                   embeddings=frozenset(m for m, parts in leaves.items() if "lora_embedding_A" in parts))  # fmt: skip


def write_adapter(folder: Path, adapter: Adapter, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a folder that PEFT reads.  metadata: further entries of its config.

    Where ranks and scales are those the config names, it is written as it is; else from what the changes are.
    Raises ConfigError when the folder holds something else, WeightsError when it cannot be written.
    """
    if folder.exists() and not (folder / CONFIG).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is no adapter; choose another folder")
    tensors: dict[str, Tensor] = {}
    for module, change in adapter.changes.items():
        a, b = ("embedding_A", "embedding_B") if module in adapter.embeddings else ("A.weight", "B.weight")
        # Modules that are one of ours share their A; a file keeps one of several names for the same memory.
        tensors[f"{PREFIX}{module}.lora_{a}"], tensors[f"{PREFIX}{module}.lora_{b}"] = (
            change.a.clone(),
            change.b.clone(),
        )
        if change.magnitude is not None:
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = change.magnitude
    for name, tensor in adapter.tensors.items():
        module, _, leaf = name.rpartition(".")
        tensors[f"{PREFIX}{module}.base_layer.{leaf}" if module in adapter.changes else PREFIX + name] = tensor
    said = {**as_dict(_describing(adapter)), **(metadata or {})}
    with whole_file(folder / CONFIG) as draft:  # the config is renamed when the weights are there: both or neither
        draft.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_safetensors(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})
    return folder


def _describing(adapter: Adapter) -> AdapterConfig:
    """The adapter's config; where it does not name the changes as they are, with every rank, alpha and target."""
    config, changes = adapter.config, adapter.changes
    if all(
        config.selects(module)
        and config.rank_of(module) == len(change.a)
        and math.isclose(config.scale_of(module), change.scale, rel_tol=1e-12)
        for module, change in changes.items()
    ):
        return config
    ranks = {module: len(change.a) for module, change in changes.items()}
    alphas = {module: change.scale * len(change.a) for module, change in changes.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else config.rank
    alpha = Counter(alphas.values()).most_common(1)[0][0] if alphas else config.alpha
    return replace(
        config, rslora=False, rank=rank, alpha=alpha, targets=tuple(changes),
        rank_pattern={module: each for module, each in ranks.items() if each != rank},
        alpha_pattern={module: each for module, each in alphas.items() if each != alpha},
    )  # fmt: skip


def _open(folder: Path) -> TensorFile:
    for name in WEIGHTS:
        path = folder / name
        if os.path.lexists(path):
            return read(path, "safetensors") if path.suffix == ".safetensors" else read_torch(path)
    raise WeightsError(f"{folder} has an {CONFIG} and no weights; looked for {', '.join(WEIGHTS)}")


def _change(
    folder: Path, config: AdapterConfig, module: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> LowRank:
    """One module's tensors, checked against each other and against the config."""
    where = f"{folder}: {module!r}"
    kinds = keys.keys() - {"lora_magnitude_vector"}
    if kinds not in ({"lora_A", "lora_B"}, {"lora_embedding_A", "lora_embedding_B"}):
        found = ", ".join(sorted(kinds)) or "a magnitude only"
        raise WeightsError(f"{where}: expected lora_A and lora_B, found {found}")
    a, b = (tensors[keys[name]] for name in sorted(kinds))
    if a.dim() != 2 or b.dim() != 2:
        raise WeightsError(f"{where}: lora_A has shape {list(a.shape)}; adapters of convolutions are not supported")
    if len(a) != config.rank_of(module) or b.shape[1] != len(a):
        found = f"lora_A {list(a.shape)}, lora_B {list(b.shape)}"
        raise WeightsError(f"{where}: the config says rank {config.rank_of(module)}, found {found}")
    if not config.selects(module):
        raise WeightsError(f"{where} has an adapter, but target_modules does not name it: {config.targets}")
    if config.dora != ("lora_magnitude_vector" in keys):
        raise WeightsError(f"{where}: use_dora is {config.dora}, found {', '.join(sorted(keys))}")
    magnitude = tensors[keys["lora_magnitude_vector"]] if config.dora else None
    for tensor in (a, b) if magnitude is None else (a, b, magnitude):
        if not tensor.is_floating_point():
            raise WeightsError(f"{where}: expected floating numbers, found {tensor.dtype}")
    return LowRank(a=a, b=b, scale=config.scale_of(module), magnitude=magnitude, dropout=config.dropout)


def _whole(folder: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors under the names they have without adapters."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        plain = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        if plain in tensors and not torch.equal(tensors[plain], tensor):
            raise WeightsError(f"{folder}: the tensor {plain!r} is stored twice with different values")
        tensors[plain] = tensor
    return tensors
