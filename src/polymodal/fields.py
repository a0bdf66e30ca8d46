"""Records that were filled in wrongly: one line that names the record, the field and what was expected.

    check_fields(record)          in `__post_init__`: the value of every field is of the kind that its annotation says
    constructor_error(problem)    a TypeError of a dataclass's constructor -> "System has no field 'headlin'; ..."
    explained(file, records)      around a file that is run: whatever goes wrong is one line with the file and its line
    returned(value, kind, what)   what a function of a record gave back is of the kind it must be

Annotations are read as text, since most of what they name is imported for type checkers alone.  A class is known by the
names of its bases; a value of Python's own types where a class must stand is wrong, any other object is taken as it is.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from polymodal.errors import ConfigError, PolymodalError

T = TypeVar("T")
BASIC: Mapping[str, Callable[[Any], bool]] = {
    "Any": lambda value: True,
    "None": lambda value: value is None,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "tuple": lambda value: isinstance(value, tuple),
    "Mapping": lambda value: isinstance(value, Mapping),
    "Collection": lambda value: isinstance(value, Collection) and not isinstance(value, str),
    "Sequence": lambda value: isinstance(value, Sequence) and not isinstance(value, str),
    "Callable": callable,
    # Aliases that the records use.
    "Slot": lambda value: isinstance(value, str),
    "Tensors": lambda value: isinstance(value, Mapping),
}
PYTHONS_OWN = (str, int, float, bool, tuple, list, dict, set, type(None), FunctionType, type)


def check_fields(record: Any) -> None:
    """Raises ConfigError for the first field whose value is not what its annotation says."""
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    name = values.get("id") or values.get("name")
    for each in fields(record):
        if not _fits(values[each.name], str(each.type)):
            named = f"{type(record).__name__} {name!r}" if isinstance(name, str) else type(record).__name__
            raise ConfigError(f"{named}: {each.name} must be {each.type}, found {shown(values[each.name])}")


def constructor_error(problem: Exception, records: Mapping[str, Any]) -> str | None:
    """What was wrong in a call of one of these dataclasses, by its name; None for any other error."""
    text = str(problem)
    name = text.partition(".__init__()")[0]
    if not isinstance(problem, TypeError) or name not in records:
        return None
    have, words = [each.name for each in fields(records[name])], re.findall(r"'(\w+)'", text)
    if "unexpected keyword argument" in text:
        near = difflib.get_close_matches(words[0], have, n=1, cutoff=0.5)
        return f"{name} has no field '{words[0]}'; " + (
            f"did you mean '{near[0]}'?" if near else f"its fields are {', '.join(have)}"
        )
    if "missing" in text:
        return f"{name} lacks {', '.join(words)}"
    return f"{name} takes its fields by name, as {name}({have[0]}=...)"


def place_of(problem: BaseException) -> str:
    """Where an error arose, as "checkpoint.py, line 12"."""
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    path = Path(frame.filename)
    return f"{path.parent.name}/{path.name}, line {frame.lineno}"


@contextmanager
def explained(file: Path, records: Mapping[str, Any]) -> Iterator[None]:
    """Whatever goes wrong while a file is run is a ConfigError of one line: the file, its line, the record if it was
    one of these."""
    try:
        yield
    except Exception as problem:
        frames = traceback.extract_tb(problem.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        line = problem.lineno if isinstance(problem, SyntaxError) else lines[-1] if lines else "?"
        why = constructor_error(problem, records)
        if why is None:
            why = str(problem) if isinstance(problem, PolymodalError) else f"{type(problem).__name__}: {problem}"
        raise ConfigError(f"{file}, line {line}: {why}") from problem


def returned(value: Any, kind: type[T], what: str) -> T:
    """The value, when it is of that kind.  Raises ConfigError: what gave it, what was expected, what it gave."""
    if not isinstance(value, kind):
        raise ConfigError(f"{what} returned {shown(value)}; expected {kind.__name__}")
    return value


def shown(value: Any) -> str:
    """A value for a message: its type, and the value itself where that is short."""
    if value is None:
        return "None"
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 40 else type(value).__name__


def _fits(value: Any, annotation: str) -> bool:
    return any(_fits_one(value, each) for each in _alternatives(annotation))


def _fits_one(value: Any, annotation: str) -> bool:
    name, _, inner = annotation.partition("[")
    name = name.rpartition(".")[2]
    if name not in BASIC:
        bases: tuple[type, ...] = type(value).__mro__
        return not isinstance(value, PYTHONS_OWN) or name in {base.__name__ for base in bases}
    if not BASIC[name](value):
        return False
    each = inner.removesuffix("]").removesuffix(", ...")
    return name != "tuple" or each == inner.removesuffix("]") or all(_fits(item, each) for item in value)


def _alternatives(annotation: str) -> list[str]:
    """The sides of a union: "tuple[A | B, ...] | None" -> "tuple[A | B, ...]", "None"."""
    parts, depth = [""], 0
    for sign in annotation:
        depth += {"[": 1, "]": -1}.get(sign, 0)
        if sign == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]
