"""Spans of time that a model writes: "from 3.5 to 10 seconds", "00:03 - 00:10", "{0.12,0.35}" -> [[3.5, 10.0], ...].

Numbers in braces from 0 to 1 are shares of the video's length, as GroundingGPT writes them according to its paper; all
others are seconds, or minutes and seconds with a colon.  Two times belong together where a word or a dash joins them.
A span that ends before it starts is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_TIME = r"(?:(?:\d+:)?\d{1,2}:\d{2}(?:\.\d+)?|\d+(?:\.\d+)?)"
_UNIT = r"\s*(?:(?:seconds?|secs?|s)\b|秒)?"
_JOINED = re.compile(
    rf"(?<![\d.:])({_TIME}){_UNIT}\s*(?:to|and|until|till|through|-|–|—|~|,|至|到)\s*"
    rf"(?:the\s+)?(?:end\s*:?\s*(?:at\s+)?)?({_TIME})(?![\d:])",
    re.IGNORECASE,
)
_SHARES = re.compile(r"\{\s*(\d?\.\d+|[01])\s*,\s*(\d?\.\d+|[01])\s*\}")


def spans_in(text: str, seconds: Callable[[], float]) -> list[list[float]]:
    """The spans of an answer in seconds, in its order.  seconds: the video's length, asked for where shares stand."""
    found: list[tuple[int, float, float]] = []
    for match in _SHARES.finditer(text):
        length = seconds()
        found.append((match.start(), float(match[1]) * length, float(match[2]) * length))
    plain = _SHARES.sub(lambda match: " " * len(match[0]), text)
    found += [(match.start(), _seconds(match[1]), _seconds(match[2])) for match in _JOINED.finditer(plain)]
    return [[start, end] for _, start, end in sorted(found) if end > start]


def _seconds(text: str) -> float:
    """ "1:02.5" -> 62.5"""
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total
