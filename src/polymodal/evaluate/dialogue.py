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

from collections.abc import Sequence
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored, each


def rank_of(scores: Sequence[float], index: int) -> int:
    """The rank, from 1, of one candidate; those with an equal score stand before it."""
    values = np.asarray(scores, np.float64)
    return int((values >= values[index]).sum())


def ndcg(scores: Sequence[float], relevance: Sequence[float]) -> float:
    """Normalised discounted cumulative gain of the first ranks, as many as have a relevance above 0."""
    gains = np.asarray(relevance, np.float64)
    k = int((gains > 0).sum())
    discounts = np.log2(np.arange(k) + 2)
    order = np.lexsort((gains, -np.asarray(scores, np.float64)))
    return float((gains[order[:k]] / discounts).sum() / (np.sort(gains)[::-1][:k] / discounts).sum())


def _scores(sample: Scored) -> list[float]:
    scores = _numbers(sample.prediction)
    if not scores:
        raise ConfigError(
            f"prediction: expected a list of scores, one for each candidate, found {repr(sample.prediction)[:60]}"
        )
    return scores


def _rank(sample: Scored) -> int:
    scores, index = _scores(sample), sample.record.get("gt_index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(scores):
        raise ConfigError(
            f"gt_index: expected the position of the given answer among {len(scores)} candidates, from 0, "
            f"found {index!r}"
        )
    return rank_of(scores, index)


def _ndcg(sample: Scored) -> float:
    scores, found = _scores(sample), sample.record.get("gt_relevance")
    relevance = _numbers(found)
    if len(relevance) != len(scores) or min(relevance) < 0 or not any(relevance):
        raise ConfigError(
            f"gt_relevance: expected {len(scores)} numbers, one for each candidate, none below 0 and one above it, "
            f"found {repr(found)[:60]}"
        )
    return ndcg(scores, relevance)


def _numbers(values: Any) -> list[float]:
    """The values of a list of numbers; nothing where it is no such list."""
    numbers = values if isinstance(values, list | tuple) else []
    return list(numbers) if all(isinstance(each, int | float) and each == each for each in numbers) else []


def _recall(k: int) -> Metric:
    return Metric(name=f"recall_at_{k}", rows=each(lambda sample: float(_rank(sample) <= k)))


NDCG = Metric(name="ndcg", rows=each(_ndcg))
MRR = Metric(name="mrr", rows=each(lambda sample: 1 / _rank(sample)))
RECALL_AT_1 = _recall(1)
RECALL_AT_5 = _recall(5)
RECALL_AT_10 = _recall(10)
MEAN_RANK = Metric(name="mean_rank", rows=each(_rank), best="low")
