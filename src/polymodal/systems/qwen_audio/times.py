"""Times as Qwen-Audio writes them (arXiv 2311.07919): one token for each hundredth of a second, <|0.00|> to <|30.00|>.

'starts at <|2.33|> seconds and ends at <|3.26|>'  <->  'starts at 2.33 seconds and ends at 3.26', (2.33, 3.26)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from polymodal.errors import PromptError

LAST = 30.0
_TIME = re.compile(r"<\|(\d+\.\d\d)\|>")


def time_text(seconds: float, length: float = LAST) -> str:
    """The token of a time, rounded to hundredths; PromptError for one outside of a recording of `length` seconds."""
    most = min(length, LAST)
    if not 0 <= seconds <= most:
        raise PromptError(f"time {seconds:g} s: expected 0 to {most:g} s, the length of what is heard")
    return f"<|{seconds:.2f}|>"


def read_times(text: str) -> tuple[str, tuple[float, ...]]:
    """An answer -> its plain text, and the times in it in order; PromptError for one beyond the last token."""
    times = tuple(float(found) for found in _TIME.findall(text))
    if beyond := [each for each in times if each > LAST]:
        raise PromptError(f"time <|{beyond[0]:.2f}|>: expected 0 to {LAST:g} s")
    return _TIME.sub(r"\1", text), times


def spans_of(times: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Times by pairs, start and end; PromptError for an odd number of them or an end before its start."""
    if len(times) % 2:
        raise PromptError(f"spans: expected an even number of times, found {len(times)}")
    pairs = tuple(zip(times[::2], times[1::2], strict=True))
    if wrong := [pair for pair in pairs if pair[1] < pair[0]]:
        raise PromptError(f"span {wrong[0][0]:g} to {wrong[0][1]:g} s: expected its end behind its start")
    return pairs
