"""One word for each sample: accuracy, precision, recall and F1 over classes or of one of them, top-5, confusion.

A row has `label`, a word; a prediction is a word, or ranked words, likeliest first, the first being the answer.  None
or an empty list is an answer that names no class: it is wrong, and adds to no class's predictions.

    precision = right / predicted, recall = right / labelled, F1 = 2 right / (predicted + labelled); 0 where undefined
    macro: mean over the classes that occur as label or as prediction; weighted: by how often each is the label
    mean class accuracy: mean recall over the classes that occur as label (Pets, Caltech-101, Flowers-102, Aircraft)

As scikit-learn's accuracy_score, precision_recall_fscore_support(zero_division=0), balanced_accuracy_score and
top_k_accuracy_score.  Words are compared as they stand: a task brings them to one spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, text


def answer(prediction: Any) -> str | None:
    """The word that counts: the prediction, or the first of ranked ones; None for no answer."""
    if isinstance(prediction, list | tuple):
        prediction = prediction[0] if len(prediction) else None
    return None if prediction is None else text(prediction, "prediction")


def vocabulary(samples: Sequence[Scored]) -> list[str]:
    """Every word that is a label or an answer, sorted."""
    labels = {label(sample.record) for sample in samples}
    return sorted(labels | {said for sample in samples if (said := answer(sample.prediction)) is not None})


def class_rows(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 3]: right or not, the label's index in the vocabulary, that of the answer (-1 for none)."""
    index: dict[str | None, int] = {each: i for i, each in enumerate(vocabulary(samples))}
    index[None] = -1
    pairs = [(index[label(sample.record)], index[answer(sample.prediction)]) for sample in samples]
    return np.array([(said == named, named, said) for named, said in pairs], np.float64).reshape(-1, 3)


def confusion(samples: Sequence[Scored]) -> tuple[list[str], np.ndarray]:
    """(words, counts int [C, C + 1]): a row for each label, a column for each answer; the last one is "no answer"."""
    words = vocabulary(samples)
    return words, _counts(class_rows(samples), len(words))


def per_class(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(precision, recall, F1), each [C], of a confusion [C, C + 1]; 0 where nothing was predicted or labelled."""
    right, predicted, labelled = np.diagonal(counts), counts[:, :-1].sum(0), counts.sum(1)
    return _share(right, predicted), _share(right, labelled), _share(2 * right, predicted + labelled)


def averaged(which: int, weighted: bool) -> Callable[[np.ndarray], float]:
    """The total of `class_rows`: precision (0), recall (1) or F1 (2), averaged over classes."""

    def total(rows: np.ndarray) -> float:
        counts = _counts(rows, int(rows[:, 1:].max(initial=-1)) + 1)
        labelled = counts.sum(1)
        weights = labelled if weighted else (labelled + counts[:, :-1].sum(0) > 0)
        return float(np.average(per_class(counts)[which], weights=weights)) if weights.any() else float("nan")

    return total


def mean_class_accuracy(rows: np.ndarray) -> float:
    """The mean over labels of the share that was answered right; rows as of `class_rows`."""
    labels = rows[:, 1].astype(int)
    labelled = np.bincount(labels)
    shares = np.bincount(labels, rows[:, 0])[labelled > 0] / labelled[labelled > 0]
    return float(shares.mean()) if len(shares) else float("nan")


def of_class(positive: str) -> tuple[Metric, Metric, Metric]:
    """Precision, recall and F1 of one class, which a data set calls the positive one."""

    def rows(samples: Sequence[Scored]) -> np.ndarray:
        pairs = [(label(sample.record), answer(sample.prediction)) for sample in samples]
        if not any(named == positive for named, _ in pairs):
            found = ", ".join(sorted({named for named, _ in pairs})[:8]) or "none"
            raise ConfigError(
                f"label: expected the positive class {positive!r} in some row, found {found}; name another"
            )
        return np.array([(a == b, a == positive, b == positive) for a, b in pairs], np.float64).reshape(-1, 3)

    def metric(name: str, which: int) -> Metric:
        return Metric(name=f"{name} of {positive}", read=rows, rows=np.asarray, asks=label,
                      total=lambda found: float(_binary(found)[which]))  # fmt: skip

    return metric("precision", 0), metric("recall", 1), metric("F1", 2)


def top(k: int) -> Metric:
    """Share of samples whose label is among the first k of the ranked words."""

    def rows(samples: Sequence[Scored]) -> np.ndarray:
        return np.array([label(sample.record) in _ranked(sample.prediction)[:k] for sample in samples], np.float64)

    return Metric(name=f"top-{k}", rows=rows, asks=label)


def label(record: Mapping[str, Any]) -> str:
    """The class that people named."""
    return text(given(record, "label"), "label")


def _ranked(prediction: Any) -> list[str]:
    if not isinstance(prediction, list | tuple):
        raise ConfigError(f"prediction: expected a list of labels, likeliest first, found {type(prediction).__name__}")
    return [text(each, "prediction") for each in prediction]


def _binary(rows: np.ndarray) -> np.ndarray:
    """Precision, recall, F1 of rows [right, label is positive, answer is positive]."""
    labelled, predicted = rows[:, 1].sum(), rows[:, 2].sum()
    right = (rows[:, 1] * rows[:, 2]).sum()
    return _share(np.array([right, right, 2 * right]), np.array([predicted, labelled, predicted + labelled]))


def _counts(rows: np.ndarray, classes: int) -> np.ndarray:
    """The confusion, int [C, C + 1], of `class_rows`."""
    labels, answers = rows[:, 1].astype(int), rows[:, 2].astype(int)
    cells = labels * (classes + 1) + np.where(answers < 0, classes, answers)
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part), np.float64), where=whole > 0)


_metric = partial(Metric, read=class_rows, rows=np.asarray, asks=label)
ACCURACY = _metric(name="accuracy")
MACRO_PRECISION = _metric(name="macro precision", total=averaged(0, weighted=False))
MACRO_RECALL = _metric(name="macro recall", total=averaged(1, weighted=False))
MACRO_F1 = _metric(name="macro F1", total=averaged(2, weighted=False))
WEIGHTED_PRECISION = _metric(name="weighted precision", total=averaged(0, weighted=True))
WEIGHTED_RECALL = _metric(name="weighted recall", total=averaged(1, weighted=True))
WEIGHTED_F1 = _metric(name="weighted F1", total=averaged(2, weighted=True))
MEAN_CLASS_ACCURACY = _metric(name="mean class accuracy", total=mean_class_accuracy)
TOP_1, TOP_5 = top(1), top(5)
