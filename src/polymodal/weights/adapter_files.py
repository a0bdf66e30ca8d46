"""Adapter folders as the PEFT library writes them: what adapter_config.json says, and the tensors by module.

    adapter_config.json  ->  AdapterConfig: rank, alpha, patterns, options; what is not supported is refused by name
    adapter_model.safetensors | adapter_model.bin
        base_model.model.<module>.lora_A.weight [r, in]   .lora_B.weight [out, r]   .lora_magnitude_vector [out]
        base_model.model.<module>.lora_embedding_A [r, V] .lora_embedding_B [D, r]
        base_model.model.<tensor>                         whole tensors: trained biases and `modules_to_save`

Module names are those of the library's class in memory, which differ from the names of a checkpoint on disk.
The tensors say which modules are adapted; `target_modules` must agree, `exclude_modules` and `layers_to_transform`,
which only narrowed the choice when the adapter was made, are not looked at again.
Traps: PEFT's patterns are regular expressions on the end of a module's name; `.base_layer.` stands in the names of
biases (and of a saved embedding) of adapted modules; initialisations such as PiSSA change the base weights, which
only PEFT can repeat.
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
from polymodal.weights.cache import staged
from polymodal.weights.export import save_safetensors
from polymodal.weights.read import TensorFile, read, read_torch

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
_READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "target_modules",
    "modules_to_save", "rank_pattern", "alpha_pattern", "base_model_name_or_path", "revision", "task_type",
    "init_lora_weights",
}  # fmt: skip
# They only tell how it was made or run, not what it computes.  PEFT goes by the kind of module, not by fan_in_fan_out.
_NO_MATTER = {
    "auto_mapping", "inference_mode", "peft_version", "exclude_modules", "layers_to_transform", "layers_pattern",
    "fan_in_fan_out", "runtime_config", "megatron_core", "qalora_group_size", "loftq_config", "eva_config",
}  # fmt: skip
_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
_LEAF = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_[AB]|lora_magnitude_vector(?:\.weight)?)")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter_config.json says, with PEFT's defaults.

    targets: names of modules, a regular expression, "all-linear", or None.  base: the model it belongs to, "" when it
    is not told.  task: PEFT's task_type.
    """

    rank: int = 8
    alpha: float = 8
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    bias: str = "none"
    targets: tuple[str, ...] | str | None = None
    whole: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    base: str = ""
    revision: str | None = None
    task: str | None = None

    def rank_of(self, module: str) -> int:
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """alpha / rank, or alpha / sqrt(rank) of rank-stabilised LoRA."""
        alpha, rank = _by_pattern(self.alpha_pattern, module, self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def selects(self, module: str) -> bool:
        """Whether `target_modules` means this module."""
        if isinstance(self.targets, str):
            return self.targets.lower() == "all-linear" or _matches(self.targets, module)
        return self.targets is None or any(module == each or module.endswith(f".{each}") for each in self.targets)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """A read folder.  changes: by module; embeddings: which of them are embeddings; tensors: whole ones by name."""

    folder: Path
    config: AdapterConfig
    changes: Mapping[str, LowRank]
    embeddings: frozenset[str] = frozenset()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def holds_adapter(folder: Path) -> bool:
    """Whether it is a folder of an adapter alone, without a model of its own."""
    models = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return (folder / CONFIG).is_file() and not any((folder / name).is_file() for name in models)


def read_config(folder: Path) -> AdapterConfig:
    """Raises WeightsError for a missing or damaged file, ConfigError for what is not supported."""
    path = folder / CONFIG
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} holds no adapter: it has no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(said, dict):
        raise WeightsError(f"{path}: expected a table, found {type(said).__name__}")
    return config_of(said, str(path))


def config_of(said: Mapping[str, Any], source: str = CONFIG) -> AdapterConfig:
    """The config of a dict as PEFT writes it.  Raises ConfigError naming the option that is not supported or wrong."""
    kind = said.get("peft_type", "LORA")
    if kind != "LORA":
        raise ConfigError(f"{source}: peft_type {kind!r} is not supported; expected LORA")
    if said.get("init_lora_weights") not in _INITIALISATIONS:
        raise ConfigError(
            f"{source}: init_lora_weights {said['init_lora_weights']!r} changes the base weights; convert it to a "
            "plain LoRA with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    for name, value in said.items():
        if name not in _READ | _NO_MATTER and value:
            raise ConfigError(f"{source}: the option {name} ({value!r}) is not supported")
    if said.get("bias", "none") not in ("none", "all", "lora_only"):
        raise ConfigError(f"{source}: bias {said['bias']!r} is not supported; expected none, all or lora_only")
    try:
        config = AdapterConfig(
            rank=int(said.get("r", 8)),
            alpha=float(said.get("lora_alpha", 8)),
            dropout=float(said.get("lora_dropout") or 0.0),
            rslora=bool(said.get("use_rslora")),
            dora=bool(said.get("use_dora")),
            bias=said.get("bias", "none"),
            targets=_names(said.get("target_modules")),
            whole=tuple(map(str, said.get("modules_to_save") or ())),
            rank_pattern={str(name): int(rank) for name, rank in (said.get("rank_pattern") or {}).items()},
            alpha_pattern={str(name): float(alpha) for name, alpha in (said.get("alpha_pattern") or {}).items()},
            base=str(said.get("base_model_name_or_path") or ""),
            revision=said.get("revision"),
            task=said.get("task_type"),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{source} has a value of another kind: {str(error).splitlines()[0]}") from error
    ranks = (config.rank, *config.rank_pattern.values())
    if min(ranks) < 1 or not all(map(math.isfinite, (config.alpha, *config.alpha_pattern.values()))):
        raise ConfigError(f"{source}: ranks must be at least 1 and alphas finite; found r {min(ranks)}")
    return config


def read_adapter(folder: Path) -> Adapter:
    """Config and tensors of a folder; raises WeightsError unless they belong together, ConfigError (see config_of)."""
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
    changes = {module: _change(folder, config, module, parts, tensors) for module, parts in leaves.items()}
    return Adapter(folder=folder, config=config, changes=changes, tensors=_whole(folder, config, changes, whole),
                   embeddings=frozenset(m for m, parts in leaves.items() if "lora_embedding_A" in parts))  # fmt: skip


def write_adapter(folder: Path, adapter: Adapter, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a folder that PEFT reads, config last.  metadata: further entries of its config.

    Where ranks and scales are those the config names, it is written as it is; else from what the changes are.
    Raises ConfigError when the folder holds something else, WeightsError when it cannot be written.
    """
    if folder.exists() and not (folder / CONFIG).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is no adapter; choose another folder")
    tensors: dict[str, Tensor] = {}
    for module, change in adapter.changes.items():
        a, b = ("embedding_A", "embedding_B") if module in adapter.embeddings else ("A.weight", "B.weight")
        tensors[f"{PREFIX}{module}.lora_{a}"], tensors[f"{PREFIX}{module}.lora_{b}"] = change.a, change.b
        if change.magnitude is not None:
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = change.magnitude
    for name, tensor in adapter.tensors.items():
        module, _, leaf = name.rpartition(".")
        tensors[f"{PREFIX}{module}.base_layer.{leaf}" if module in adapter.changes else PREFIX + name] = tensor
    save_safetensors(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})
    said = {**as_dict(_describing(adapter)), **(metadata or {})}
    path = folder / CONFIG
    with staged(path) as draft:
        draft.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    return folder


def as_dict(config: AdapterConfig) -> dict[str, Any]:
    """The config under PEFT's names."""
    whole = {name: int(x) if float(x).is_integer() else x for name, x in config.alpha_pattern.items()}
    return {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "bias": config.bias,
        "target_modules": list(config.targets) if isinstance(config.targets, tuple) else config.targets,
        "modules_to_save": list(config.whole) or None,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": whole,
        "base_model_name_or_path": config.base or None,
        "revision": config.revision,
        "task_type": config.task,
        "inference_mode": True,
        "init_lora_weights": True,
        "fan_in_fan_out": False,
    }


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
        if path.is_file():
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


def _whole(
    folder: Path, config: AdapterConfig, changes: Mapping[str, LowRank], found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Whole tensors under the names they have without adapters; WeightsError for one the config does not name."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        plain = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        module, _, leaf = plain.rpartition(".")
        saved = any(f".{module}.".find(f".{each}.") >= 0 for each in config.whole)
        bias = leaf == "bias" and (config.bias == "all" or (config.bias == "lora_only" and module in changes))
        if not (saved or bias or (".base_layer." in name and module in changes)):
            raise WeightsError(f"{folder}: the tensor {name!r} belongs to no module that {CONFIG} names")
        if plain in tensors and not torch.equal(tensors[plain], tensor):
            raise WeightsError(f"{folder}: the tensor {plain!r} is stored twice with different values")
        tensors[plain] = tensor
    return tensors


def _names(said: Any) -> tuple[str, ...] | str | None:
    return said if said is None or isinstance(said, str) else tuple(map(str, said))


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name."""
    return next((value for key, value in patterns.items() if _matches(rf"(.*\.)?({key})", module)), default)


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.fullmatch(pattern, module) is not None
    except re.error as error:
        raise ConfigError(f"{CONFIG}: {pattern!r} is no regular expression: {error}") from error
