"""Visual dialogue: how well a model ranks the candidate answers of one round (VisDial v1.0, arXiv 1611.08669).

The prediction is a list of scores, one for each candidate, the higher the better.  A record has

    gt_index       which candidate the person gave, from 0:  MRR, RECALL_AT_1, _5, _10 (shares), MEAN_RANK (from 1)
    gt_relevance   how right each candidate is, 0 to 1 (several people's judgement):  NDCG (0 to 1)

NDCG looks at the first K ranks, where K is how many candidates have a relevance above 0: the sum of relevance /
log2(rank + 1), over the same sum of the best order.  The official code (visdial-challenge-starter-pytorch of
batra-mlp-lab, `visdialch/metrics.py`) leaves the order of equal scores to the sort; here they count against the model:
the given answer comes last among its equals, and the least relevant comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored, each
from polymodal.evaluate.values import given, vector
from polymodal.fields import shown


def rank_of(scores: ArrayLike, index: int) -> int:
    """The rank, from 1, of one candidate; those with an equal score stand before it."""
    values = np.asarray(scores, np.float64)
    return int((values >= values[index]).sum())


def ndcg(scores: ArrayLike, relevance: ArrayLike) -> float:
    """Normalised discounted cumulative gain of the first ranks, as many as have a relevance above 0."""
    gains = np.asarray(relevance, np.float64)
    k = int((gains > 0).sum())
    discounts = np.log2(np.arange(k) + 2)
    order = np.lexsort((gains, -np.asarray(scores, np.float64)))
    return float((gains[order[:k]] / discounts).sum() / (np.sort(gains)[::-1][:k] / discounts).sum())


def given_answer(record: Mapping[str, Any]) -> int:
    """The position of the answer that the person gave."""
    index = given(record, "gt_index")
    if type(index) is not int or index < 0:
        raise ConfigError(f"gt_index: expected the position of the given answer, from 0, found {shown(index)}")
    return index


def relevances(record: Mapping[str, Any]) -> np.ndarray:
    """How right each candidate is."""
    found = vector(given(record, "gt_relevance"), "gt_relevance")
    if found.min() < 0 or not found.any():
        raise ConfigError(f"gt_relevance: expected no number below 0 and one above it, found {shown(found.tolist())}")
    return found


def read_ranks(samples: Sequence[Scored]) -> np.ndarray:
    """The rank of the given answer in each round, from 1, [N]."""
    return np.array([_rank(sample) for sample in samples], np.float64)


def _rank(sample: Scored) -> int:
    scores, index = vector(sample.prediction, "prediction"), given_answer(sample.record)
    if index >= len(scores):
        raise ConfigError(f"prediction: expected a score for each candidate, more than {index}, found {len(scores)}")
    return rank_of(scores, index)


def _ndcg(sample: Scored) -> float:
    scores, relevance = vector(sample.prediction, "prediction"), relevances(sample.record)
    if len(relevance) != len(scores):
        raise ConfigError(f"prediction: expected {len(relevance)} scores, one for each candidate, found {len(scores)}")
    return ndcg(scores, relevance)


def _within(k: int) -> Metric:
    return _ranked(name=f"recall_at_{k}", rows=lambda found: (found <= k).astype(np.float64))


_ranked = partial(Metric, read=read_ranks, asks=given_answer)
NDCG = Metric(name="ndcg", rows=each(_ndcg), asks=relevances)
MRR = _ranked(name="mrr", rows=np.reciprocal)
RECALL_AT_1, RECALL_AT_5, RECALL_AT_10 = map(_within, (1, 5, 10))
MEAN_RANK = _ranked(name="mean_rank", rows=np.asarray, best="low")
