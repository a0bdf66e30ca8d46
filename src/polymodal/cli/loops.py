"""Answers that repeat themselves: small models decode greedily into loops, up to the limit of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

REPEATED = 4
"""How often in a row the same text stands at the end of a loop, at least."""
SHORTEST = 150
"""Characters that all repetitions have together, at least: shorter ones are rulers, tables and laughter."""
LONGEST = 300
"""Characters of one repetition, at most."""
FINISH = "repetition"


def until_it_loops(stream: Any) -> Iterator[str]:
    """The pieces of an answer; one that repeats itself is stopped, its `reply.finish_reason` is "repetition"."""
    tail = ""
    for piece in stream:
        yield piece
        tail = (tail + piece)[-REPEATED * LONGEST - SHORTEST :]
        if loops(tail):
            stream.stop(FINISH)


def loops(text: str) -> bool:
    """Whether a text ends in the same words again and again."""
    for length in range(1, min(LONGEST, len(text) // REPEATED) + 1):
        times = max(REPEATED, -(-SHORTEST // length))
        if len(text) >= times * length and text.endswith(text[-length:] * times):
            return True
    return False
