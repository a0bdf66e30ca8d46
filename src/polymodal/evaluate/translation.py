"""Translations: BLEU with the words and the smoothing of sacrebleu, so that it can be compared with its figures.

Its signature there: `case:mixed|eff:no|tok:13a|smooth:exp`, version 2.6.0.  The words are those of `mteval-v13a`:
punctuation apart, but full stops and commas inside numbers and dashes not after a digit stay.  It differs from the BLEU
of `captions.py` in those words, in capitals, which count, and where no n-gram of an order is found: the first such
order counts half an n-gram, the next a quarter.  0 to 1; papers print 100 times the number.

A record has `references`, a list of texts; the prediction is a text.  Chinese, Japanese and Korean want other words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.evaluate.captions import ORDERS, bleu_counts
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, text, texts

_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}  # in this order: "&amp;lt;" becomes "<"
_APART = (
    (re.compile(r"""([!"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])"""), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def words_13a(text: str) -> list[str]:
    """The words of a text as `mteval-v13a` splits them."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, mark in _ENTITIES.items():
        text = text.replace(entity, mark)
    text = f" {text} "
    for pattern, replacement in _APART:
        text = pattern.sub(replacement, text)
    return text.split()


def smoothed_bleu(counts: Sequence[float], short: bool = False) -> float:
    """BLEU of (sums of) `bleu_counts`; `short`: of a text under four words only the orders that it has."""
    matches, written, (length, expected) = counts[:ORDERS], counts[ORDERS:-2], counts[-2:]
    if short:
        written = [each for each in written if each]
    if not any(matches) or not all(written):
        return 0.0
    logs, part = 0.0, 1.0
    for found, of in zip(matches, written, strict=False):
        if not found:
            part /= 2
        logs += math.log((found or part) / of)
    return math.exp(logs / len(written) + min(0.0, 1 - expected / length))


def _references(record: Mapping[str, Any]) -> list[str]:
    return texts(given(record, "references"), "references")


def _rows(samples: Sequence[Scored]) -> np.ndarray:
    """BLEU of the sample alone, then its counts."""
    counts = [
        bleu_counts(words_13a(text(each.prediction, "prediction")), list(map(words_13a, _references(each.record))))
        for each in samples
    ]
    return np.array([[smoothed_bleu(each, short=True), *each] for each in counts], np.float64)


def _total(rows: np.ndarray) -> float:
    return smoothed_bleu(rows[:, 1:].sum(0).tolist())


TRANSLATION_BLEU = Metric(name="translation_bleu", rows=_rows, total=_total, asks=_references)
