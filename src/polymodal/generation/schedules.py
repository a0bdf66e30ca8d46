"""How many tokens of a grid are written in each step, and how warm each step is (MaskGIT, arXiv 2202.04200; 4M).

    cosine     few at first and at last, most between: what 0.5 (1 + cos) loses from step to step
    linear     alike, the larger counts first; steps without a token are left out
    constant, linear, onex:MIN:POWER       temperature: as given; falling with what is left; falling as 1 / x ** power
Trap: counts are rounded half to even, and the last step takes what is left; where rounding up took more than there is
(25 steps for 256), the last steps are shorter or left out, while the published schedule ends with -1.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from polymodal.errors import ConfigError

COLDEST = 1e-9


def cosine_tokens(steps: int, tokens: int) -> list[int]:
    """Tokens of each step, which sum to `tokens`."""
    level = [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    counts = [round(tokens * (before - after)) for before, after in pairwise(level)]
    counts.append(tokens - sum(counts))
    done = np.minimum(np.cumsum(counts), tokens)
    return [int(count) for count in np.diff(done, prepend=0) if count > 0]


def linear_tokens(steps: int, tokens: int) -> list[int]:
    counts = np.diff(np.linspace(0, tokens, steps + 1, dtype=int)).tolist()
    return [count for count in sorted(counts, reverse=True) if count]


def token_schedule(name: str, steps: int, tokens: int) -> list[int]:
    """By name.  Raises ConfigError for another, and for steps that are no number from 1 to the tokens."""
    if not 1 <= steps <= tokens:
        raise ConfigError(f"{steps} steps for {tokens} tokens; expected 1 .. {tokens}")
    if name == "cosine":
        return cosine_tokens(steps, tokens)
    if name == "linear":
        return linear_tokens(steps, tokens)
    raise ConfigError(f"schedule of tokens {name!r}: expected cosine or linear")


def temperature_schedule(name: str, warmest: float, counts: list[int]) -> list[float]:
    """Temperatures of the steps.  Raises ConfigError for another name."""
    done = np.cumsum(counts) / sum(counts)
    if name == "constant":
        return [warmest] * len(counts)
    if name == "linear":
        return [max(COLDEST, warmest * left) for left in (1.0, *(1 - done[:-1]))]
    kind, _, rest = name.partition(":")
    try:
        coldest, power = map(float, rest.split(":"))
    except ValueError:
        coldest, power = -1.0, 0.0
    if kind != "onex" or coldest < 0 or power <= 0:
        raise ConfigError(f"schedule of temperature {name!r}: expected constant, linear or onex:MIN:POWER, 0 <= MIN")
    curve = np.linspace(1, 100, num=sum(counts)) ** -power
    curve = (curve - curve.min()) / max(curve.max() - curve.min(), COLDEST)
    scaled = [(1 - share) * value for share, value in zip(done, curve, strict=False)]
    return [max(COLDEST, coldest + (warmest - coldest) * value) for value in scaled]
