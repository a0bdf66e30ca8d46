"""The config.json of a method on features: the fields of the model's own config, and `model_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from polymodal.errors import ConfigError

Made = TypeVar("Made")
LABELS = ("model_type", "architectures")


def method_config(make: Callable[..., Made], config: Mapping[str, Any], system: str, **given: Any) -> Made:
    """make(**fields), `given` in place of the config's.  Raises ConfigError for a field it does not have."""
    fields = {name: value for name, value in config.items() if name not in LABELS}
    try:
        return make(**{**fields, **given})
    except TypeError as problem:
        raise ConfigError(f"{system}: {problem}") from problem
