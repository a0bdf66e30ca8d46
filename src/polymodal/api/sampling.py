"""How an answer is written: what a caller asks for, what a system is usually asked for, and the ends of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from polymodal.errors import ConfigError
from polymodal.generation.sampling import SamplingOptions
from polymodal.systems import LoadedModel, unknown

LOOP = 128  # tokens that repeat each other before an answer of `chat` is taken for a loop


def chosen_options(parts: LoadedModel, options: SamplingOptions | None, changes: Mapping[str, Any]) -> SamplingOptions:
    """The options given, or the system's own, with changes.  Raises UnknownName, ConfigError."""
    known = {field.name for field in fields(SamplingOptions)}
    for name in changes:
        if name not in known:
            raise unknown("option", name, known)
    if options is not None and not isinstance(options, SamplingOptions):
        raise ConfigError(f"options: expected SamplingOptions, found {type(options).__name__}")
    usual = {"max_tokens": 256, "stop_loops": LOOP, **parts.sampling}
    own = SamplingOptions(**usual) if options is None else options
    chosen = replace(own, **changes)
    return chosen if chosen.stop else replace(chosen, stop=parts.stop)
