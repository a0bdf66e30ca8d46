"""What an adapter_config.json of the PEFT library says, and which options are supported.

    adapter_config.json  ->  AdapterConfig: rank, alpha, patterns, options; what is not supported is refused by name

The tensors beside it say which modules are adapted; `target_modules` must agree, `exclude_modules` and
`layers_to_transform`, which only narrowed the choice when the adapter was made, are not looked at again.
Traps: PEFT's patterns are regular expressions on the end of a module's name; initialisations such as PiSSA change the
base weights, which only PEFT can repeat.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError, WeightsError
from polymodal.files import read_json
from polymodal.weights.patterns import MAX_TEXT, matches

CONFIG = "adapter_config.json"
TRAINED_BESIDE = "non_lora_trainables.bin"
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
_REPEATS = frozenset("*+?{|()[")
_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter_config.json says, with PEFT's defaults.

    targets: names of modules, a regular expression, "all-linear", or None.  base: the model it belongs to, "" when it
    is not named.  task: PEFT's task_type.
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


def holds_adapter(folder: Path) -> bool:
    """Whether it is a folder of an adapter alone, without a model of its own."""
    models = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return (folder / CONFIG).is_file() and not any((folder / name).is_file() for name in models)


def read_config(folder: Path) -> AdapterConfig:
    """Raises WeightsError for a missing or damaged file, ConfigError for what is not supported."""
    path = folder / CONFIG
    if (folder / TRAINED_BESIDE).is_file():
        raise ConfigError(
            f"{folder} holds {TRAINED_BESIDE}, weights that LLaVA trained beside the adapter, which are not read; "
            "merge them with its scripts/merge_lora_weights.py and load the result"
        )
    if not os.path.lexists(path):
        raise WeightsError(f"{folder} holds no adapter: it has no {CONFIG}")
    said = read_json(path)
    if not isinstance(said, dict):
        raise WeightsError(f"{path}: expected a table, found {type(said).__name__}")
    return parse_config(said, str(path))


def parse_config(said: Mapping[str, Any], source: str = CONFIG) -> AdapterConfig:
    """The config of a dict as PEFT writes it.  Raises ConfigError naming the option that is not supported or wrong."""
    kind = said.get("peft_type", "LORA")
    if kind != "LORA":
        raise ConfigError(
            f"{source}: peft_type {kind!r} is not supported, expected LORA; merge it into its base with PEFT's "
            "merge_and_unload() and load that"
        )
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
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(f"{source} has a value of another kind: {str(error).splitlines()[0]}") from error
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"{source}: lora_dropout must be from 0 to 1, found {config.dropout}")
    ranks = (config.rank, *config.rank_pattern.values())
    if min(ranks) < 1 or not all(map(math.isfinite, (config.alpha, *config.alpha_pattern.values()))):
        raise ConfigError(f"{source}: ranks must be at least 1 and alphas finite; found r {min(ranks)}")
    return config


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


def _names(said: Any) -> tuple[str, ...] | str | None:
    return said if said is None or isinstance(said, str) else tuple(map(str, said))


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name."""
    return next((value for key, value in patterns.items() if _matches(key, module, end=True)), default)


def _matches(pattern: str, module: str, end: bool = False) -> bool:
    """Whether a pattern of PEFT describes a module's name, or the end of it behind a dot."""
    whole = rf"(.*\.)?({pattern})" if end else pattern
    try:
        # A pattern without repetitions and choices, as most are, is quick for Python's own matcher.
        simple = not _REPEATS.intersection(pattern) and len(module) <= MAX_TEXT
        return re.fullmatch(whole, module) is not None if simple else matches(whole, module)
    except (re.error, ValueError) as error:
        raise ConfigError(f"{CONFIG}: {pattern!r:.80} is no regular expression that is read: {error}") from error
