"""A method that learns from features, of which nobody published weights, begun at the widths of somebody's own data.

    begin("self-mm", "run.start", ["features.pkl"])     run.start/config.json and model.safetensors, random weights

The folder is a checkpoint like any other: `pm.load` reads it, a run of training names it, `export` writes its like.
Trap: what the paper takes from elsewhere (BERT, ALBERT) is random too; put weights of it into the folder, or load one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from polymodal import systems
from polymodal.api.load import hub_name, published_path
from polymodal.errors import ConfigError, PolymodalError
from polymodal.systems import System, Variant
from polymodal.train.feature_files import FeatureDataset, is_features
from polymodal.weights.export import export_safetensors

WEIGHTS = "model.safetensors"


def can_begin(model: str | Path) -> bool:
    """Whether a name is that of a method without published weights."""
    try:
        if published_path(model) is not None or hub_name(model) is not None:
            return False
        return _begins(*systems.find(str(model)))
    except PolymodalError:
        return False


def _begins(system: System, variant: Variant) -> bool:
    return "method" in system.fusion and variant.repository is None and variant.config is not None


def begin(model: str, folder: str | Path, data: Sequence[str | Path] = (), seed: int = 0) -> Path:
    """The folder with random weights; one that lies there already is kept where its config is the same.

    data: files of features, whose widths the model takes in place of the published.  Raises ConfigError.
    """
    system, variant = systems.find(model)
    if not _begins(system, variant):
        raise ConfigError(f"{system.id}:{variant.name} is no method that begins from nothing; load its checkpoint")
    config = fitted(dict(variant.config or {}), [Path(each) for each in data if is_features(Path(each))])
    target = Path(folder)
    held = target / "config.json"
    if held.is_file() and (target / WEIGHTS).is_file():
        if json.loads(held.read_text(encoding="utf-8")) != json.loads(json.dumps(config)):
            raise ConfigError(f"{target} holds another model; remove it, or name another --out")
        return target
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty and holds no model; remove it, or name another --out")
    target.mkdir(parents=True, exist_ok=True)
    spec = system.formats[variant.format].model_spec(config)
    torch.manual_seed(seed)
    export_safetensors(spec.build(), target / WEIGHTS, spec.keys[0])
    held.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return target


def fitted(config: dict[str, Any], data: Sequence[Path]) -> dict[str, Any]:
    """The config at the widths of the data, and with room for as many vectors as it has samples."""
    if not data or not isinstance(config.get("features"), dict):
        return config
    sets = [FeatureDataset(each, "train") for each in data]
    found = sets[0].features.widths
    if missing := [name for name in config["features"] if name not in found]:
        raise ConfigError(
            f"{sets[0].file} has no {missing[0]}; {config['model_type']} takes {', '.join(config['features'])}, found "
            f"{', '.join(found)}"
        )
    config = {**config, "features": {name: found[name] for name in config["features"]}}
    if "vectors" in config:
        config["vectors"] = sum(map(len, sets))
    steps = config.get("seq_lens")
    if isinstance(steps, dict):  # MMSA pads to the longest sequence of a file
        longest = {name: max(len(each.features[name]) for part in sets for each in part.features.samples)
                   for name in steps}  # fmt: skip
        config["seq_lens"] = {name: max(longest[name], 1) for name in steps}
    if "parties" in config:
        most = max(len(set(each.speakers)) for part in sets for each in part.features.samples)
        config["parties"] = max(config["parties"], most)
    return config
