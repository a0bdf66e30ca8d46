"""Opening files that strangers wrote: regular files only, up to a stated size, and JSON up to a stated depth.

A checkpoint folder may hold a FIFO, a device or a link to one under any name: opening it would wait for ever, or read
without end.  JSON may nest until every function that walks it fails, hold numbers that are none (NaN) or half
surrogates that no output can encode.  Whatever is read from disk goes through `open_regular`, whatever is JSON through
`parse_json`; each refusal is one line of the caller's kind of error.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from polymodal.errors import PolymodalError, WeightsError

MAX_JSON_BYTES = 1 << 26  # 64 MiB; the largest published index or config has 3 MB
MAX_JSON_DEPTH = 64  # the deepest published config has 7 levels, the deepest tokenizer.json 12
MAX_JSON_DIGITS = 400  # of one whole number; a float64 has at most 309 before its point


def open_regular(
    path: Path,
    max_bytes: int | None = None,
    error: type[PolymodalError] = WeightsError,
    what: str = "",
    *,
    name: str | None = None,
    expected: str = "a regular file",
) -> BinaryIO:
    """The file, open for reading, when it is a regular one (or a link to one) of at most `max_bytes` bytes.

    The descriptor is looked at after it was opened, so that nothing can be put in between; opening never waits for a
    writer.  what: "index", "tokenizer", ... for the message, or `name` in place of that and the path.  Raises `error`:
    missing, a folder, a pipe, a device, unreadable, too large.
    """
    name = f"{what} {path}".strip() if name is None else name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise error(f"there is no file {name}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{name} cannot be opened ({getattr(problem, 'strerror', None) or problem})") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
            raise error(f"{name} is {kind}, expected {expected}")
        if max_bytes is not None and found.st_size > max_bytes:
            raise error(f"{name} has {found.st_size:,} bytes, the limit is {max_bytes:,}; check the file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, max_bytes: int, error: type[PolymodalError] = WeightsError, what: str = "") -> bytes:
    """The whole file; raises as `open_regular`, also when the file grows beyond the limit while it is read."""
    with open_regular(path, max_bytes, error, what) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as problem:
            raise error(f"{what} {path} cannot be read ({problem.strerror})".strip()) from None
    if len(data) > max_bytes:
        raise error(f"{what} {path} has more than {max_bytes:,} bytes, the limit; check the file".strip())
    return data


def read_json(
    path: Path, max_bytes: int = MAX_JSON_BYTES, error: type[PolymodalError] = WeightsError, what: str = ""
) -> Any:
    """The value of a JSON file; raises as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, max_bytes, error, what), f"{what} {path}".strip(), error)


def parse_json(text: bytes | str, name: str, error: type[PolymodalError] = WeightsError) -> Any:
    """The value of a JSON text that can be handled safely; name: what the message calls it.

    Raises `error` for text that is not JSON or not UTF-8, nests deeper than MAX_JSON_DEPTH, has a number of more than
    MAX_JSON_DIGITS digits, NaN, an infinity, or half a surrogate pair.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number of JSON")

    def whole(digits: str) -> int:
        if len(digits) > MAX_JSON_DIGITS:
            raise ValueError(f"a number of {len(digits):,} digits, the limit is {MAX_JSON_DIGITS}")
        return int(digits)

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded, parse_constant=refuse, parse_int=whole)
        _check(value)
    except RecursionError:
        raise error(f"{name} is damaged: it nests deeper than {MAX_JSON_DEPTH} levels") from None
    except UnicodeError:
        raise error(f"{name} is damaged: its text is not valid UTF-8") from None
    except ValueError as problem:
        raise error(f"{name} is damaged: {str(problem).splitlines()[0]}") from None
    return value


def _check(value: Any) -> None:
    """Refuses depth, infinities (1e999) and half surrogates; level by level, so that depth costs no recursion."""
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode("utf-8")
            elif isinstance(item, float) and item in (float("inf"), float("-inf")):
                raise ValueError("a number is larger than a float64")
            elif isinstance(item, dict):
                for key in item:
                    key.encode("utf-8")
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        if not deeper:
            return
        level = deeper
    raise RecursionError
