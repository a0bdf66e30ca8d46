"""Standard streams that print any name and any answer, whatever encoding the terminal or pipe has.

File names may hold bytes that are not UTF-8 (Python keeps them as lone surrogates): they are printed as those bytes.
Characters that the encoding lacks are printed as escapes; typed bytes that are not of the encoding become "\ufffd".
"""

import codecs
import io
import os
import sys

NAME = "polymodal-print"


def open_streams() -> bool:
    """Prepare stdin, stdout and stderr; False when stdout is closed."""
    codecs.register_error(NAME, as_bytes_or_escape)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file opened would get its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, NAME), (sys.stderr, NAME)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    return sys.stdout is not None


def as_bytes_or_escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is printed for characters that cannot be encoded: the byte that a surrogate stands for, else an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # One at a time: a run may hold both kinds.
    first = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    try:
        return codecs.lookup_error("surrogateescape")(first)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(first)


def as_text(word: str) -> str:
    """A word of the command line as text for a model: bytes that are not UTF-8 become "\ufffd"."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
