"""The metrics of ranked candidates equal those of VisDial's official code.

`fixtures/evaluate_dialogue.json` holds scores, relevance, indices and what `SparseGTMetrics` and `NDCG` of
`visdialch/metrics.py` gave for them; its "source" names the revision.  It was made outside the project with random
scores (all different) of 100, 20 and 4 candidates, and relevance of fifths of which most are 0, seed 0.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.dialogue import (
    MEAN_RANK,
    MRR,
    NDCG,
    RECALL_AT_1,
    RECALL_AT_5,
    RECALL_AT_10,
    ndcg,
    rank_of,
)
from polymodal.evaluate.metric import Scored, measured
from polymodal.evaluate.metrics import ranks

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_dialogue.json").read_text(encoding="utf-8"))
OFFICIAL = {"r@1": RECALL_AT_1, "r@5": RECALL_AT_5, "r@10": RECALL_AT_10, "mean": MEAN_RANK, "mrr": MRR, "ndcg": NDCG}


@pytest.mark.parametrize("batch", range(len(GOLDEN["batches"])))
@pytest.mark.parametrize("name", OFFICIAL)
def test_equals_the_official_code(batch: int, name: str) -> None:
    case = GOLDEN["batches"][batch]
    samples = [
        Scored(record={"gt_index": index, "gt_relevance": relevance}, prediction=scores)
        for scores, index, relevance in zip(case["scores"], case["gt_index"], case["gt_relevance"], strict=True)
    ]
    assert measured(OFFICIAL[name], samples).value == pytest.approx(case[name], rel=1e-6)  # official: float32


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_rank_is_the_one_of_retrieval(scores: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(scores) - 1))
    assert rank_of(scores, index) == ranks(torch.tensor([scores]), [[index]])[0] + 1


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), min_size=6, max_size=6).filter(any))
def test_ndcg_is_1_for_the_best_order_and_at_most_1(scores: list[int], fifths: list[int]) -> None:
    relevance = [each / 5 for each in fifths]
    assert ndcg(relevance, relevance) == pytest.approx(1)
    assert 0 <= ndcg(scores, relevance) <= 1 + 1e-12
    assert ndcg([1] * 6, relevance) <= ndcg(scores, relevance) + 1e-12  # equal scores are the worst order


@pytest.mark.parametrize(
    ("metric", "record", "prediction", "message"),
    [
        (MRR, {}, [1.0, 2.0], "expected a field 'gt_index', found none"),
        (MRR, {"gt_index": "1"}, [1.0, 2.0], "gt_index: expected the position .* from 0, found str '1'"),
        (MRR, {"gt_index": 2}, [1.0, 2.0], "a score for each candidate, more than 2, found 2"),
        (MRR, {"gt_index": 0}, "yes", "prediction: expected a list of finite numbers"),
        (MRR, {"gt_index": 0}, [float("nan"), 1.0], "prediction: expected a list of finite numbers"),
        (NDCG, {"gt_relevance": [1]}, [1.0, 2.0], "prediction: expected 1 scores, one for each candidate, found 2"),
        (NDCG, {"gt_relevance": [0, 0]}, [1.0, 2.0], "one above it"),
    ],
)
def test_records_that_are_wrong(metric, record: dict, prediction, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric.of([Scored(record=record, prediction=prediction)])
