"""Yes or no (depression, sarcasm, humour, a finding): precision, recall and F1 of both sides, the area under the ROC.

A row has `label`, true or false, 1 or 0; a prediction is such a one, or how sure the model is of "yes", 0 to 1, where
0.5 and more is a yes.
    AUROC    the share of pairs of a yes and a no that stand in the right order, half where both are as sure
As scikit-learn's precision_recall_fscore_support(zero_division=0) and roc_auc_score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, is_number
from polymodal.fields import shown

HALF = 0.5


def truth(record: Mapping[str, Any]) -> bool:
    """Whether the label is yes."""
    label = given(record, "label")
    if not isinstance(label, bool) and label not in (0, 1):
        raise ConfigError(f"label: expected true or false, 1 or 0, found {shown(label)}; correct the row")
    return bool(label)


def read_pairs(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 4]: right or not, label, answer, how sure of yes."""
    rows = []
    for sample in samples:
        label, sure = truth(sample.record), _sure(sample.prediction)
        rows.append([label == (sure >= HALF), label, sure >= HALF, sure])
    return np.array(rows, np.float64)


def _sure(prediction: Any) -> float:
    if isinstance(prediction, bool):
        return float(prediction)
    if not is_number(prediction) or not 0 <= prediction <= 1:
        raise ConfigError(f"prediction: expected true, false or a number from 0 to 1, found {shown(prediction)}")
    return float(prediction)


def auroc(rows: np.ndarray) -> float:
    """The area under the ROC of `read_pairs`; nan of one side alone."""
    yes, no = (np.sort(rows[rows[:, 1] == side, 3]) for side in (1, 0))
    if not len(yes) or not len(no):
        return float("nan")
    below = np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")
    return float(below.sum() / (2 * len(yes) * len(no)))


def _share(which: str, side: int) -> Callable[[np.ndarray], float]:
    """Precision, recall or F1 of one side; 0 where undefined."""

    def total(rows: np.ndarray) -> float:
        labelled, said = rows[:, 1] == side, rows[:, 2] == side
        whole = {"precision": said.sum(), "recall": labelled.sum(), "F1": (labelled.sum() + said.sum()) / 2}[which]
        return float((labelled & said).sum() / whole) if whole else 0.0

    return total


_metric = partial(Metric, read=read_pairs, rows=np.asarray, asks=truth)
BINARY = (
    _metric(name="accuracy"),
    *(_metric(name=name, total=_share(name, 1)) for name in ("precision", "recall", "F1")),
    _metric(name="F1 of no", total=_share("F1", 0)),
    _metric(name="AUROC", total=auroc),
)
