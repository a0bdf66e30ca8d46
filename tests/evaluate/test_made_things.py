"""Numbers about pictures, sounds, faces and summaries that were made, against torch and against counting them out."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polymodal.errors import ConfigError
from polymodal.evaluate.depths import DEPTHS, FACES
from polymodal.evaluate.metric import Scored, all_measured, measured
from polymodal.evaluate.posteriors import INCEPTION_SCORE, KL
from polymodal.evaluate.summaries import FRAMES, SHOT_F1, best_pairing
from polymodal.evaluate.vectors import CONSISTENCY, DIRECTION, MUTUAL_KNN, SIMILARITY

RANDOM = np.random.default_rng(7)


def test_mutual_neighbours_as_the_platonic_paper_computes_them() -> None:
    first, second = torch.from_numpy(RANDOM.normal(size=(2, 40, 6)))
    second = second + first
    lists = []
    for side in (first, second):
        unit = torch.nn.functional.normalize(side, dim=-1)
        lists.append((unit @ unit.T).fill_diagonal_(-1e8).argsort(dim=1, descending=True)[:, :10])
    expected = np.mean([len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(*lists, strict=True)])
    samples = [
        Scored(record={"features": a.tolist()}, prediction=b.tolist()) for a, b in zip(first, second, strict=True)
    ]
    assert 0.2 < expected < 0.9 and measured(MUTUAL_KNN, samples).value == pytest.approx(expected)
    with pytest.raises(ConfigError, match="expected more than 10 rows, found 3"):
        measured(MUTUAL_KNN, samples[:3])


def test_divergence_and_inception_score_equal_torch() -> None:
    real, made = torch.from_numpy(RANDOM.normal(size=(2, 9, 5))).softmax(-1)
    real[0] = torch.tensor([1.0, 0, 0, 0, 0])
    # audioldm_eval adds 1e-6 to what was made
    expected = torch.nn.functional.kl_div((made + 1e-6).log(), real, reduction="batchmean").item()
    samples = [Scored(record={"posterior": a.tolist()}, prediction=b.tolist()) for a, b in zip(real, made, strict=True)]
    assert measured(KL, samples).value == pytest.approx(expected, abs=1e-12)
    score = torch.nn.functional.kl_div(made.mean(0).log().expand_as(made), made, reduction="batchmean").exp().item()
    assert measured(INCEPTION_SCORE, samples).value == pytest.approx(score, abs=1e-12)
    certain = [Scored(record={}, prediction=row) for row in np.eye(4).tolist()]
    assert measured(INCEPTION_SCORE, certain).value == pytest.approx(4)


def test_cosines() -> None:
    vectors = torch.from_numpy(RANDOM.normal(size=(4, 8)))
    before, text, other, after = vectors
    record = {"before": before.tolist(), "text_before": text.tolist(), "text_after": other.tolist()}
    expected = torch.cosine_similarity(after - before, other - text, dim=0).item()
    assert measured(DIRECTION, [Scored(record=record, prediction=after.tolist())]).value == pytest.approx(expected)
    expected = torch.cosine_similarity(vectors[:-1], vectors[1:]).mean().item()
    assert measured(CONSISTENCY, [Scored(record={}, prediction=vectors.tolist())]).value == pytest.approx(expected)
    sample = Scored(record={"features": before.tolist()}, prediction=text.tolist())
    expected = torch.cosine_similarity(before, text, dim=0).item()
    assert measured(SIMILARITY, [sample]).value == pytest.approx(expected)


def test_depth() -> None:
    sample = Scored(record={"depth": [[2, 0], [4, 1]]}, prediction=[[1, 9], [4.4, 1.3]])
    found = {each.name: each.value for each in all_measured(DEPTHS, [sample])}
    assert found["AbsRel"] == pytest.approx((0.5 + 0.1 + 0.3) / 3)
    assert found["RMSE"] == pytest.approx(((1 + 0.16 + 0.09) / 3) ** 0.5)
    assert (found["d1"], found["d2"], found["d3"]) == pytest.approx((1 / 3, 2 / 3, 2 / 3))


def test_faces_counted_out() -> None:
    real, made = RANDOM.normal(size=(2, 6, 5, 3))
    template, lips, upper = RANDOM.normal(size=(5, 3)), [1, 3], [0, 2, 4]
    record = {"vertices": real.tolist(), "template": template.tolist(), "lips": lips, "upper": upper}
    lve = np.mean([max(((real[t, v] - made[t, v]) ** 2).sum() for v in lips) for t in range(6)])
    spread = [np.mean([np.std([((each[t, v] - template[v]) ** 2).sum() for t in range(6)]) for v in upper])
              for each in (real, made)]  # fmt: skip
    found = {each.name: each.value for each in all_measured(FACES, [Scored(record=record, prediction=made.tolist())])}
    assert found == pytest.approx({"LVE": lve, "FDD": spread[0] - spread[1]})


@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.integers(0, 8).map(lambda n: n / 8))
)
def test_the_pairing_is_the_best_of_all(weights: np.ndarray) -> None:
    short, long = sorted(weights.shape)
    table = weights if weights.shape[0] == short else weights.T
    best = max(sum(table[i, j] for i, j in enumerate(order)) for order in permutations(range(long), short))
    assert best_pairing(weights) == pytest.approx(best)


def test_summaries() -> None:
    record = {"summaries": [[1, 1, 0, 0], [0, 1, 1, 0]]}
    found = {each.name: each.value for each in all_measured(FRAMES, [Scored(record=record, prediction=[1, 1, 0, 0])])}
    assert found == pytest.approx({"F, mean over people": 0.75, "F, best of people": 1})
    shots = {"concepts": [["car", "sky"], ["car"], ["dog"], []], "selected": [0, 2]}
    # shots 1 and 2 are paired with 0 (half of its words) and 2 (all): P = R = 1.5 / 2
    assert measured(SHOT_F1, [Scored(record=shots, prediction=[1, 2])]).value == pytest.approx(0.75)
    assert measured(SHOT_F1, [Scored(record=shots, prediction=[])]).value == 0


@pytest.mark.parametrize(
    ("metric", "record", "prediction", "message"),
    [
        (SIMILARITY, {"features": [1, 2]}, [1], "prediction: expected 2 numbers as the row has, found 1"),
        (DIRECTION, {"before": [1], "text_before": [1, 2], "text_after": [1]}, [1], "expected as many numbers in each"),
        (CONSISTENCY, {}, [[1, 2]], "two frames or more, found one"),
        (KL, {"posterior": [-1, 2]}, [1, 0], "posterior: expected probabilities, none below 0"),
        (KL, {"posterior": [1, 2]}, [1], "prediction: expected 2 classes as the rows have, found 1"),
        (DEPTHS[0], {"depth": [[0]]}, [[1]], "depth: expected a pixel above 0"),
        (DEPTHS[0], {"depth": [[1]]}, [[0]], "prediction: expected metres above 0"),
        (
            FACES[0],
            {"vertices": [[[0, 0, 0]]], "lips": [1], "upper": [0], "template": [[0, 0, 0]]},
            [],
            "lips: expected",
        ),
        (FRAMES[0], {"summaries": [[0, 2]]}, [0, 1], "summaries: expected 0 or 1 for each frame"),
        (FRAMES[0], {"summaries": [[0, 1]]}, [0], "expected as many frames as each summary has, found 1"),
        (SHOT_F1, {"concepts": [["a"]], "selected": [1]}, [], "selected: expected numbers of shots from 0 to 0"),
    ],
)
def test_mistakes_are_named(metric, record: dict, prediction, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(metric, [Scored(record=record, prediction=prediction)])
