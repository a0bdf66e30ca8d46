"""Descriptions of a picture, sound or video against several that people wrote, as COCO's evaluation scores them.

    BLEU_1 .. BLEU_4   of the whole corpus: n-grams found in one of the references (each as often as in the reference
                       that has it most) over all that were written, geometric mean of the orders 1 to n, times
                       exp(1 - references / written) where less was written; of the references the nearest length
    ROUGE_L            longest common subsequence, as a share of the words written (P) and of the reference's (R), each
                       the best over the references: (1 + b^2) P R / (R + b^2 P), b = 1.2
    CIDER_D            arXiv 1411.5726 with the changes of CIDEr-D; 0 to 10, and papers print 100 times the number

Numbers are those of pycocoevalcap 1.2 (its BLEU adds 1e-15 and 1e-9 against division by zero).  Words are those of
`caption_words.py`.  CIDEr-D weighs an n-gram by log(records / records whose references have it), so that it belongs
to the whole set: of a single record it is 0, and of a part of a set it is another number.  METEOR is
`meteor.py`; SPICE is a program in Java with models of its own and is not here.

A record has `captions`, a list of texts; the prediction is a text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.evaluate.caption_words import caption_words
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, text, texts

Words = tuple[str, ...]
Ngrams = Counter[Words]
ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9
_BETA = 1.2
_SIGMA = 6.0


def ngrams(words: Sequence[str], orders: int = ORDERS) -> Ngrams:
    """How often each run of 1 to `orders` words occurs."""
    return Counter(tuple(words[i : i + n]) for n in range(1, orders + 1) for i in range(len(words) - n + 1))


def bleu_counts(words: Sequence[str], references: Sequence[Sequence[str]], orders: int = ORDERS) -> list[int]:
    """Found n-grams of each order, written n-grams of each order, words written, words of the nearest reference."""
    most: Ngrams = Counter()
    for reference in references:
        most |= ngrams(reference, orders)
    found = ngrams(words, orders) & most
    matches = [sum(count for gram, count in found.items() if len(gram) == n) for n in range(1, orders + 1)]
    written = [max(0, len(words) - n + 1) for n in range(1, orders + 1)]
    nearest = min((abs(len(each) - len(words)), len(each)) for each in references)[1]
    return [*matches, *written, len(words), nearest]


def bleu(counts: Sequence[float]) -> float:
    """BLEU of (sums of) `bleu_counts`."""
    orders = len(counts) // 2 - 1
    matches, written, (length, expected) = counts[:orders], counts[orders:-2], counts[-2:]
    product = math.prod((m + _TINY) / (w + _SMALL) for m, w in zip(matches, written, strict=True))
    ratio = (length + _TINY) / (expected + _SMALL)
    return product ** (1 / orders) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def rouge_l(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of one description; 1 where it and a reference have no word, as the official code has it."""
    words = words or ("",)
    common = [(_common(words, each or ("",)), len(each) or 1) for each in references]
    precision = max(length / len(words) for length, _ in common)
    recall = max(length / of for length, of in common)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def cider_d(texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """CIDEr-D of each description; the frequencies of n-grams are those of all the references."""
    counted = [[ngrams(each) for each in group] for group in references]
    documents = Counter(gram for group in counted for gram in set().union(*group))
    weigh = partial(_weights, documents=documents, log_size=math.log(max(len(references), 1)))
    scores = []
    for words, group in zip(texts, counted, strict=True):
        own = weigh(ngrams(words))
        similar = sum(_similarity(own, weigh(each)) for each in group)
        scores.append(10 * similar / len(group))
    return scores


# One mapping for each order, the lengths of these vectors, and the number of pairs of words.
_Vectors = tuple[list[dict[tuple[str, ...], float]], list[float], int]


def _weights(counts: Ngrams, documents: Ngrams, log_size: float) -> _Vectors:
    vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
    for gram, count in counts.items():
        vectors[len(gram) - 1][gram] = count * (log_size - math.log(max(documents[gram], 1)))
    lengths = [math.sqrt(sum(weight * weight for weight in each.values())) for each in vectors]
    return vectors, lengths, sum(count for gram, count in counts.items() if len(gram) == 2)


def _similarity(one: _Vectors, other: _Vectors) -> float:
    """The mean over the orders; a description earns no more of an n-gram than the reference has of it."""
    total = 0.0
    for mine, theirs, my_length, their_length in zip(one[0], other[0], one[1], other[1], strict=True):
        shared = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in mine.items() if gram in theirs)
        total += shared / (my_length * their_length) if my_length and their_length else 0.0
    return total / ORDERS * math.exp(-((one[2] - other[2]) ** 2) / (2 * _SIGMA**2))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(one) + 1)
    for word in other:
        diagonal = 0
        for i, mine in enumerate(one, start=1):
            diagonal, row[i] = row[i], diagonal + 1 if mine == word else max(row[i], row[i - 1])
    return row[-1]


def caption_texts(record: Mapping[str, Any]) -> list[str]:
    """The descriptions that people wrote."""
    return texts(given(record, "captions"), "captions")


def read_words(samples: Sequence[Scored]) -> tuple[list[Words], list[list[Words]]]:
    """The words of each prediction, and of its references."""
    references = [[caption_words(each) for each in caption_texts(sample.record)] for sample in samples]
    return [caption_words(text(sample.prediction, "prediction")) for sample in samples], references


Found = tuple[list[Words], list[list[Words]]]


def _bleu_rows(found: Found, orders: int) -> np.ndarray:
    """BLEU of the sample alone, then its counts."""
    counts = [bleu_counts(words, group, orders) for words, group in zip(*found, strict=True)]
    return np.array([[bleu(each), *each] for each in counts], np.float64)


def _bleu_total(rows: np.ndarray) -> float:
    return bleu(rows[:, 1:].sum(0).tolist())


def _rouge_rows(found: Found) -> np.ndarray:
    return np.array([rouge_l(words, group) for words, group in zip(*found, strict=True)])[:, None]


def _cider_rows(found: Found) -> np.ndarray:
    return np.array(cider_d(*found))[:, None]


_metric = partial(Metric, read=read_words, asks=caption_texts)


def _bleu(orders: int) -> Metric:
    return _metric(name=f"bleu_{orders}", rows=partial(_bleu_rows, orders=orders), total=_bleu_total)


BLEU_1, BLEU_2, BLEU_3, BLEU_4 = (_bleu(orders) for orders in range(1, ORDERS + 1))
ROUGE_L = _metric(name="rouge_l", rows=_rouge_rows)
CIDER_D = _metric(name="cider_d", rows=_cider_rows)
