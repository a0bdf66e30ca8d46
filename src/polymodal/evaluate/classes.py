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

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, word


def answer(prediction: Any) -> str | None:
    """The word that counts: the prediction, or the first of ranked ones; None for no answer."""
    if isinstance(prediction, list | tuple):
        prediction = prediction[0] if len(prediction) else None
    return None if prediction is None else word(prediction, "prediction")


def vocabulary(samples: Sequence[Scored]) -> list[str]:
    """Every word that is a label or an answer, sorted."""
    labels = {_label(sample) for sample in samples}
    return sorted(labels | {said for sample in samples if (said := answer(sample.prediction)) is not None})


def class_rows(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 3]: right or not, the label's index in the vocabulary, that of the answer (-1 for none)."""
    index: dict[str | None, int] = {each: i for i, each in enumerate(vocabulary(samples))}
    index[None] = -1
    pairs = [(index[_label(sample)], index[answer(sample.prediction)]) for sample in samples]
    return np.array([(said == label, label, said) for label, said in pairs], np.float64).reshape(-1, 3)


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
        pairs = [(_label(sample), answer(sample.prediction)) for sample in samples]
        if not any(label == positive for label, _ in pairs):
            found = ", ".join(sorted({label for label, _ in pairs})[:8]) or "none"
            raise ConfigError(
                f"label: expected the positive class {positive!r} in some row, found {found}; name another"
            )
        return np.array([(a == b, a == positive, b == positive) for a, b in pairs], np.float64).reshape(-1, 3)

    return (
        Metric(name=f"precision of {positive}", rows=rows, total=lambda rows: _binary(rows)[0]),
        Metric(name=f"recall of {positive}", rows=rows, total=lambda rows: _binary(rows)[1]),
        Metric(name=f"F1 of {positive}", rows=rows, total=lambda rows: _binary(rows)[2]),
    )


def top(k: int) -> Metric:
    """Share of samples whose label is among the first k of the ranked words."""

    def rows(samples: Sequence[Scored]) -> np.ndarray:
        return np.array([_label(sample) in _ranked(sample.prediction)[:k] for sample in samples], np.float64)

    return Metric(name=f"top-{k}", rows=rows)


def _label(sample: Scored) -> str:
    return word(given(sample, "label"), "label")


def _ranked(prediction: Any) -> list[str]:
    if not isinstance(prediction, list | tuple):
        raise ConfigError(f"prediction: expected a list of labels, likeliest first, found {type(prediction).__name__}")
    return [word(each, "prediction") for each in prediction]


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


ACCURACY = Metric(name="accuracy", rows=class_rows)
MACRO_PRECISION = Metric(name="macro precision", rows=class_rows, total=averaged(0, weighted=False))
MACRO_RECALL = Metric(name="macro recall", rows=class_rows, total=averaged(1, weighted=False))
MACRO_F1 = Metric(name="macro F1", rows=class_rows, total=averaged(2, weighted=False))
WEIGHTED_PRECISION = Metric(name="weighted precision", rows=class_rows, total=averaged(0, weighted=True))
WEIGHTED_RECALL = Metric(name="weighted recall", rows=class_rows, total=averaged(1, weighted=True))
WEIGHTED_F1 = Metric(name="weighted F1", rows=class_rows, total=averaged(2, weighted=True))
MEAN_CLASS_ACCURACY = Metric(name="mean class accuracy", rows=class_rows, total=mean_class_accuracy)
TOP_1, TOP_5 = top(1), top(5)
