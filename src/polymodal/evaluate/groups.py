"""Right together or not at all: NLVR2's consistency, VCR's answer and rationale, CALVIN's chains of tasks.

NLVR2    a row has `label` and `sentence`, which several rows share; a prediction is a label
         consistency: the share of sentences with which every row is right (arXiv 1811.00491)
VCR      a row has `answer` and `rationale`, indices from 0; a prediction is {"answer": 2, "rationale": 0}
         Q->A, QA->R, and Q->AR, where both are right (arXiv 1811.10830)
CALVIN   a row is a chain of `tasks`; a prediction is how many were done before the first that failed
         success of the first 1 .. 5, and the mean length (arXiv 2112.03227)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.classes import answer, label
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, listed, text
from polymodal.fields import shown

CHAIN = 5


def sentence(record: Mapping[str, Any]) -> str:
    """What rows have in common."""
    label(record)
    return text(given(record, "sentence"), "sentence")


def sentence_rows(samples: Sequence[Scored]) -> np.ndarray:
    """1 for each sentence with which every row is right, [sentences]."""
    right: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        right[sentence(sample.record)].append(label(sample.record) == answer(sample.prediction))
    return np.array([all(each) for each in right.values()], np.float64)


def _index(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ConfigError(f"{what}: expected the number of an answer, from 0, found {shown(value)}")
    return value


def choices(record: Mapping[str, Any]) -> tuple[int, int]:
    """The right answer and rationale."""
    return _index(given(record, "answer"), "answer"), _index(given(record, "rationale"), "rationale")


def read_choices(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 2]: answer right, rationale right."""
    rows = []
    for sample in samples:
        if not isinstance(sample.prediction, Mapping):
            raise ConfigError(f'prediction: expected {{"answer": 0, "rationale": 1}}, found {shown(sample.prediction)}')
        said = [_index(sample.prediction.get(name), f"prediction, {name}") for name in ("answer", "rationale")]
        rows.append([a == b for a, b in zip(choices(sample.record), said, strict=True)])
    return np.array(rows, np.float64)


def chain(record: Mapping[str, Any]) -> int:
    """How many tasks a chain has."""
    return len(listed(given(record, "tasks"), "tasks", "tasks of a chain"))


def read_lengths(samples: Sequence[Scored]) -> np.ndarray:
    """How many tasks of each chain were done, [N]."""
    rows = []
    for sample in samples:
        done, most = sample.prediction, chain(sample.record)
        if type(done) is not int or not 0 <= done <= most:
            raise ConfigError(f"prediction: expected how many of {most} tasks were done, found {shown(done)}")
        rows.append(done)
    return np.array(rows, np.float64)


def _reached(found: np.ndarray, tasks: int) -> np.ndarray:
    return (found >= tasks).astype(np.float64)


_choices = partial(Metric, read=read_choices, asks=choices)
_lengths = partial(Metric, read=read_lengths, asks=chain)
SENTENCES = Metric(name="consistency", rows=sentence_rows, asks=sentence)
CHOICES = (
    _choices(name="Q->AR", rows=lambda found: found.prod(1)),
    _choices(name="Q->A", rows=lambda found: found[:, 0]),
    _choices(name="QA->R", rows=lambda found: found[:, 1]),
)
CHAINS = (
    _lengths(name="mean length", rows=np.asarray),
    *(_lengths(name=f"{tasks} in a row", rows=partial(_reached, tasks=tasks)) for tasks in range(1, CHAIN + 1)),
)
