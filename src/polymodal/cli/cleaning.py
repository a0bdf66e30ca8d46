"""Streams whose text is cleaned on its way (`printable.py`): stderr always, stdout where it is a terminal, or a table.

JSON gets escapes that mean the same text.  What goes to a file or pipe as plain text is data and stays as it is.
Traps: an answer comes in pieces, so each character is judged by itself and the few before it; a sequence that is cut in
two never existed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from polymodal.printable import CONTEXT, clean


class Cleaned:
    """A stream of text, cleaned on its way to `stream`, which does all else; `buffer`, the way around, is not there."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._before = ""

    def write(self, text: str) -> int:
        self.stream.write(clean(text, self._before))
        self._before = (self._before + text)[-CONTEXT:]
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach", "reconfigure"):
            raise AttributeError(name)
        return getattr(self.stream, name)


def own(stream: Any) -> Any:
    """The stream behind cleaned ones, for what polymodal itself writes: colours, bars, the page of help."""
    while True:
        # rich puts a stream of its own in front while something moves on the screen.
        inner = stream.stream if isinstance(stream, Cleaned) else getattr(stream, "rich_proxied_file", None)
        if inner is None:
            return stream
        stream = inner


@contextmanager
def cleaned_streams() -> Iterator[None]:
    """Around a command: stderr is cleaned, and stdout where it is a terminal."""
    out, error = sys.stdout, sys.stderr
    if out is not None and out.isatty():
        sys.stdout = Cleaned(out)  # type: ignore[assignment]
    if error is not None:
        sys.stderr = Cleaned(error)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, error


def clean_redirected() -> None:
    """Cleans what is printed while something moves on the screen: rich, which puts it above, reads escapes in it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if hasattr(stream, "rich_proxied_file") and not isinstance(stream, Cleaned):
            setattr(sys, name, Cleaned(stream))  # rich itself puts back what was there before


@contextmanager
def own_streams() -> Iterator[None]:
    """Around what holds nothing of strangers, such as the page of help."""
    out, error = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = own(out), own(error)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, error
