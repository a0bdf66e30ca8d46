"""Metrics with confidence intervals: naming, yes/no questions, retrieval, word error rate.

`wilson`: 95 % interval of a proportion (Wilson 1927).  `recall_at`: share of queries with a relevant item in the top K
(any relevant item counts, as in COCO retrieval).  Answers are compared after `normalise_answer`: lower case, without
punctuation, leading article and leading "it is".
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError

_LEAD = re.compile(
    r"^(?:(?:it|this|that|there|these|the picture|the image)(?: is|'s| are| shows)? )?(?:(?:an?|the|some) )?"
)


@dataclass(frozen=True)
class Proportion:
    """`hits` of `n`, with a 95 % interval."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f}-{100 * high:.1f}, n={self.n})"


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson interval of hits/n; (0, 1) for n = 0.  Raises ConfigError unless 0 <= hits <= n."""
    if not 0 <= hits <= n:
        raise ConfigError(f"wilson: expected 0 <= hits <= n, found hits={hits}, n={n}")
    if n == 0:
        return 0.0, 1.0
    p, square = hits / n, z * z
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def normalise_answer(answer: str) -> str:
    """First sentence of the answer, lower case, without punctuation, lead-in ("it is") and article."""
    first = re.split(r"[.!?\n]", answer.strip().lower(), maxsplit=1)[0]
    words = re.sub(r"[^a-z0-9' ]+", " ", first)
    return _LEAD.sub("", " ".join(words.split()))


def exact_name(answer: str, names: Collection[str]) -> bool:
    """Whether the answer is exactly one of the accepted names; a plural "s" is ignored."""
    normalised = normalise_answer(answer)
    accepted = {normalise_answer(name) for name in names}
    return normalised in accepted or normalised.removesuffix("s") in accepted or normalised + "s" in accepted


def content_word(answer: str, words: Collection[str]) -> bool:
    """Whether any of the accepted words occurs in the answer as a whole word; a plural "s" is ignored."""
    answer_words = {word.removesuffix("s") for word in re.findall(r"[a-z0-9']+", answer.lower())}
    return any(word.removesuffix("s") in answer_words for word in words)


def yes_or_no(answer: str) -> str | None:
    """ "yes", "no", or None if the answer starts with neither."""
    match = re.match(r"\s*(yes|no)\b", answer.lower())
    return match.group(1) if match else None


def ranks(similarity: Tensor, relevant: Sequence[Collection[int]]) -> list[int]:
    """similarity [Q, N], relevant items of each query -> rank (0 = first) of its best relevant item.

    The rank is the number of wrong items at least as similar: those that tie count against the query, so that a
    constant model gets no credit; its other right items never do.
    """
    result = []
    for row, items in zip(similarity, relevant, strict=True):
        right = row[list(set(items))]
        result.append(int((row >= right.max()).sum() - (right == right.max()).sum()))
    return result


def recall_at(query_ranks: Sequence[int], k: int) -> Proportion:
    """Proportion of queries whose rank is below k."""
    return Proportion(sum(rank < k for rank in query_ranks), len(query_ranks))


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(insertions + deletions + substitutions, words of `reference`); normalise both texts first."""
    words = reference.split()
    return edit_distance(words, hypothesis.split()), len(words)


def error_rate(counts: Sequence[tuple[int, int]], samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Word error rate over all (errors, words), and its 95 % bootstrap interval over recordings: (rate, low, high)."""
    if not any(words for _, words in counts):
        raise ConfigError("error_rate: expected at least one word, found none")
    table = torch.tensor(counts, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    resampled = table[torch.randint(len(table), (samples, len(table)), generator=generator)].sum(1)
    rates = resampled[:, 0] / resampled[:, 1].clamp(min=1)
    low, high = rates.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    total = table.sum(0)
    return float(total[0] / total[1]), low, high


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Insertions, deletions and substitutions, at least, that make `one` of `other` (Levenshtein)."""
    row = list(range(len(one) + 1))
    for item in other:
        above, row[0] = row[0], row[0] + 1
        for i, mine in enumerate(one, start=1):
            above, row[i] = row[i], min(above + (mine != item), row[i] + 1, row[i - 1] + 1)
    return row[-1]
