"""What was said: word error rate, and character error rate for writing without spaces.

    errors = insertions + deletions + substitutions, at least;  rate = errors of all records / words of their texts

Both are 0 for no error and can exceed 1.  Texts are compared after a normalisation, which is most of the difference
between published figures; these two are plain, and are not Whisper's, which also rewrites numbers and spellings:

    WER   small letters, no punctuation but the apostrophe inside a word (as LibriSpeech's transcripts have it)
    CER   characters in their usual width (NFKC), small letters, without punctuation and spaces (as for AISHELL-1)

A record has `text`, what was said; the prediction is a text.  jiwer computes the same of normalised texts, but its
`cer` counts the spaces that a text has.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.evaluate.metric import Metric, Rows, Scored, quotient
from polymodal.evaluate.metrics import edit_distance, word_errors
from polymodal.evaluate.values import given, text

_NO_WORD = re.compile(r"(?<![^\W_])'|'(?![^\W_])|[^\w']|_")


def normalise_words(text: str) -> str:
    """Small letters, single spaces, no punctuation but an apostrophe between two letters or digits."""
    return " ".join(_NO_WORD.sub(" ", text.lower().replace("’", "'")).split())


def normalise_characters(text: str) -> str:
    """Letters and digits alone: usual width (NFKC), small, without punctuation and spaces."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


def character_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(insertions + deletions + substitutions, characters of `reference`); normalise both texts first."""
    return edit_distance(reference, hypothesis), len(reference)


def said(record: Mapping[str, Any]) -> str:
    """What was said in a recording."""
    return text(given(record, "text"), "text")


def _rows(errors: Callable[[str, str], tuple[int, int]], normalise: Callable[[str], str]) -> Rows:
    def rows(samples: Sequence[Scored]) -> np.ndarray:
        pairs = [
            errors(normalise(said(each.record)), normalise(text(each.prediction, "prediction"))) for each in samples
        ]
        return np.array(pairs, np.float64).reshape(-1, 2)

    return rows


WER = Metric(name="wer", rows=_rows(word_errors, normalise_words), total=quotient, best="low", asks=said)
CER = Metric(name="cer", rows=_rows(character_errors, normalise_characters), total=quotient, best="low", asks=said)
