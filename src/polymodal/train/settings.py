"""`--set path=value`: one field of a stage, or of a record in it, changed by its dotted path.

    optimizer.lr=2e-5   budget.steps=300   train=connectors,backbone   schedule={"type": "Cosine", "warmup_steps": 10}
    lora={"backbone.blocks": {"rank": 8, "alpha": 16}}

A value is JSON, or else text; text where a tuple stands is cut at its commas.  What it may be is what the record's own
annotations say (`fields.check_fields`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from polymodal.errors import ConfigError
from polymodal.fields import check_fields
from polymodal.train import (
    affect,
    momentum,
    names,
    objectives,
    optimizer,
    preference,
    pretraining,
    recipe,
    schedule,
    speech,
)
from polymodal.train.collator import Collator
from polymodal.train.recipe import Stage

MODULES = (optimizer, schedule, objectives, affect, momentum, pretraining, preference, names, speech, recipe)
RECORDS: Mapping[str, type] = {
    name: each
    for module in MODULES
    for name, each in vars(module).items()
    if is_dataclass(each) and isinstance(each, type) and each.__module__ == module.__name__
    and not issubclass(each, Collator)
} | {"LoRAConfig": recipe.LoRAConfig}  # fmt: skip


def changed(stage: Stage, settings: list[str]) -> Stage:
    """The stage with every `path=value` applied in order.  Raises ConfigError for an unknown path, with the nearest."""
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: expected path=value, as in --set optimizer.lr=2e-5")
        stage = _set(stage, path.strip().split("."), text, setting)
    return stage


def _set(record: Any, path: list[str], text: str, setting: str) -> Any:
    if not is_dataclass(record) or isinstance(record, type):
        raise ConfigError(f"--set {setting}: {path[0]!r} would be inside {type(record).__name__}, which has no fields")
    have = [each.name for each in fields(record)]
    name, rest = path[0], path[1:]
    if name not in have:
        near = difflib.get_close_matches(name, have, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(have)}"
        raise ConfigError(f"--set {setting}: {type(record).__name__} has no field {name!r}; {hint}")
    old = getattr(record, name)
    if rest and old is None:
        raise ConfigError(f'--set {setting}: {name} is not given; set it whole, as {name}={{"type": ...}}')
    value = _set(old, rest, text, setting) if rest else _value(text, old, setting)
    try:
        found = replace(record, **{name: value})
        check_fields(found)
        return found
    except ConfigError as problem:
        raise ConfigError(f"--set {setting}: {problem}") from problem


def _value(text: str, old: Any, setting: str) -> Any:
    """The text as a value that may stand where `old` stood."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(old, tuple) and isinstance(value, str):
        value = [each.strip() for each in value.split(",") if each.strip()]
    paths = isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())
    if isinstance(old, Mapping) and isinstance(value, dict) and not paths:  # the weights of sources, of heads
        return value
    if isinstance(old, Mapping) and isinstance(value, dict):  # the low-rank paths of a stage
        return {prefix: _record({"type": "LoRAConfig", **each}, setting) for prefix, each in value.items()}
    if isinstance(value, dict):
        return _record(value, setting)
    return tuple(value) if isinstance(value, list) else value


def _record(value: dict[str, Any], setting: str) -> Any:
    kind = RECORDS.get(str(value.get("type")))
    if kind is None:
        raise ConfigError(f'--set {setting}: expected a "type" of {", ".join(sorted(RECORDS))}')
    given = {name: each for name, each in value.items() if name != "type"}
    have = [each.name for each in fields(kind)]
    if unknown := [name for name in given if name not in have]:
        raise ConfigError(f"--set {setting}: {kind.__name__} has no field {unknown[0]!r}; it has {', '.join(have)}")
    try:
        found = kind(**given)
        check_fields(found)
    except (ConfigError, TypeError) as problem:
        raise ConfigError(f"--set {setting}: {problem}") from problem
    return found
