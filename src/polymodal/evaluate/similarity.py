"""How well a picture fits a text, by the vectors of a model that reads both (CLIP).

A row has a picture and `text`; a prediction is the cosine of their vectors, -1 to 1.
    CLIP score   100 max(cosine, 0), mean over rows, as torchmetrics' clip_score; the paper (Hessel et al. 2021,
                 arXiv 2104.08718) has 2.5 in place of 100
Name the model with the number: scores of ViT-B/32 and ViT-L/14 differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, number, text


def described(record: Mapping[str, Any]) -> str:
    """The text that a picture should fit."""
    return text(given(record, "text"), "text")


def _rows(samples: Sequence[Scored]) -> np.ndarray:
    return np.array([100 * max(number(each.prediction, "prediction"), 0.0) for each in samples], np.float64)


CLIP_SCORE = Metric(name="CLIP score", rows=_rows, asks=described)
