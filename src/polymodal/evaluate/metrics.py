"""Small metrics with their intervals: naming, yes/no, choice, retrieval, words heard.

`wilson`: 95 % interval of a share (Wilson 1927).  `recall_at`: share of queries with a right item among the first K
(any right item counts, as in COCO retrieval).  Answers are compared after `plain`: lower case, no punctuation, no
article and no "it is" in front.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymodal.errors import ConfigError

_LEAD = re.compile(
    r"^(?:(?:it|this|that|there|these|the picture|the image)(?: is|'s| are| shows)? )?(?:(?:an?|the|some) )?"
)


@dataclass(frozen=True)
class Share:
    """`hits` of `n`, with the 95 % interval."""

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
    """The Wilson interval of hits/n; (0, 1) for n = 0.  Raises ConfigError when hits is not within 0..n."""
    if not 0 <= hits <= n:
        raise ConfigError(f"wilson: expected 0 <= hits <= n, found hits={hits}, n={n}")
    if n == 0:
        return 0.0, 1.0
    p, square = hits / n, z * z
    middle = (p + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def plain(answer: str) -> str:
    """An answer reduced to its words: first sentence, lower case, without punctuation, lead-in and article."""
    first = re.split(r"[.!?\n]", answer.strip().lower(), maxsplit=1)[0]
    words = re.sub(r"[^a-z0-9' ]+", " ", first)
    return _LEAD.sub("", " ".join(words.split()))


def exact_name(answer: str, names: Collection[str]) -> bool:
    """Whether the answer is one of the accepted names and nothing else; a plural "s" is forgiven."""
    said = plain(answer)
    accepted = {plain(name) for name in names}
    return said in accepted or said.removesuffix("s") in accepted or said + "s" in accepted


def content_word(answer: str, words: Collection[str]) -> bool:
    """Whether any of the accepted content words occurs in the answer as a whole word; plural "s" forgiven."""
    said = {word.removesuffix("s") for word in re.findall(r"[a-z0-9']+", answer.lower())}
    return any(word.removesuffix("s") in said for word in words)


def yes_or_no(answer: str) -> str | None:
    """ "yes", "no", or None when the answer begins with neither."""
    found = re.match(r"\s*(yes|no)\b", answer.lower())
    return found.group(1) if found else None


def ranks(similarity: Tensor, right: Sequence[Collection[int]]) -> list[int]:
    """similarity [Q, N], right items of each query -> rank (0 = first) of its best right item.

    Equal similarities count against the query, so a constant model gets no credit.
    """
    found = []
    for row, items in zip(similarity, right, strict=True):
        best = max(row[i].item() for i in items)
        found.append(int((row >= best).sum().item()) - 1)
    return found


def recall_at(found: Sequence[int], k: int) -> Share:
    """Share of queries whose rank is below k."""
    return Share(sum(rank < k for rank in found), len(found))


def word_errors(right: str, heard: str) -> tuple[int, int]:
    """(words inserted, left out or replaced in `heard`; words of `right`), for texts normalised alike before."""
    words = right.split()
    row = list(range(len(words) + 1))
    for found in heard.split():
        above, row[0] = row[0], row[0] + 1
        for place, word in enumerate(words, start=1):
            above, row[place] = row[place], min(above + (word != found), row[place] + 1, row[place - 1] + 1)
    return row[-1], len(words)


def error_rate(pairs: Sequence[tuple[int, int]], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Errors over words of all `pairs`, and its 95 % interval by drawing recordings anew (bootstrap)."""
    if not any(words for _, words in pairs):
        raise ConfigError("error_rate: expected at least one word, found none")
    table = torch.tensor(pairs, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    chosen = table[torch.randint(len(table), (draws, len(table)), generator=generator)].sum(1)
    rates = chosen[:, 0] / chosen[:, 1].clamp(min=1)
    low, high = rates.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    total = table.sum(0)
    return float(total[0] / total[1]), low, high
