"""Limits that a user raises in the environment: NAME=NUMBER, one syntax for every variable.

POLYMODAL_LIMITS="seconds=36000,bytes=4e9"  ->  the record of limits with these numbers in place of its own
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any, TypeVar

from polymodal.errors import ConfigError

Record = TypeVar("Record", bound=Any)


def limits_from(variable: str, defaults: Record) -> Record:
    """`defaults`, a dataclass of positive numbers, with what the variable says of its fields.

    Settings stand apart by commas or spaces; where the field holds whole numbers, a fraction is cut off.  Raises
    ConfigError, naming the variable, for an unknown name, another syntax and what is no positive number.
    """
    known = {field.name: type(getattr(defaults, field.name)) for field in fields(defaults)}
    changes: dict[str, float] = {}
    for setting in os.environ.get(variable, "").replace(",", " ").split():
        name, _, number = setting.partition("=")
        try:
            changes[name] = known[name](float(number))
        except (KeyError, ValueError, OverflowError):
            changes[name] = 0
        if not changes[name] > 0:
            raise ConfigError(
                f"{variable} has {setting[:80]!r}; expected NAME=NUMBER, positive, with a name of {', '.join(known)}"
            )
    return replace(defaults, **changes)
