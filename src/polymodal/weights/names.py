"""What a server or an archive says, before any of it becomes a path: words and names that stay where they are put.

word   a commit, a version, the name of an archive: [0-9A-Za-z._+!-], at most 200 characters, not "." or ".."
name   of a file in a repository: parts joined by "/", each of printable characters of any script but \\,
       at most 200 bytes, not "." or ".."
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[0-9A-Za-z._+!-]{1,200}")


def is_word(text: object) -> bool:
    """Whether a text can be one part of a path."""
    return isinstance(text, str) and _WORD.fullmatch(text) is not None and text not in (".", "..")


def is_name(text: object) -> bool:
    """Whether a text is a relative path of at most 1,000 characters that leads nowhere but down."""
    return isinstance(text, str) and len(text) <= 1000 and all(map(_is_part, text.split("/")))


def _is_part(part: str) -> bool:
    allowed = part.isprintable() and "\\" not in part and part.strip() not in ("", ".", "..")
    return allowed and len(part.encode()) <= 200


def shown(text: object) -> str:
    """A server's text for a message: one short line of printable characters, in quotes."""
    return repr("".join(c if c.isprintable() else "?" for c in str(text)[:80]))
