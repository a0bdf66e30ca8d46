"""The words and the scores of captions equal those of COCO's evaluation.

`fixtures/evaluate_captions.json` holds what pycocoevalcap 1.2 gave, with its Java tokeniser ("source"): the words of
the sentences under "words", and for four sets of captions (sentences joined at random, seed 0; one a single record)
BLEU, ROUGE-L and CIDEr-D of the set and of each record.  It was made outside the project.  One prediction is empty;
there it was given as ".", since the tokeniser drops an empty line.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.caption_words import caption_words
from polymodal.evaluate.captions import BLEU_1, BLEU_2, BLEU_3, BLEU_4, CIDER_D, ROUGE_L, cider_d, rouge_l
from polymodal.evaluate.metric import Scored, measured

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_captions.json").read_text(encoding="utf-8"))
SETS = pytest.mark.parametrize("case", GOLDEN["sets"], ids=lambda case: f"{len(case['records'])} records")
WORDS = st.lists(st.sampled_from(["dog", "cat", "runs", "sits"]), max_size=6)


def samples_of(case: dict) -> list[Scored]:
    return [Scored(record=r, prediction=p) for r, p in zip(case["records"], case["predictions"], strict=True)]


@pytest.mark.parametrize(("text", "words"), GOLDEN["words"])
def test_words_equal_the_java_tokeniser(text: str, words: list[str]) -> None:
    assert list(caption_words(text)) == words


@given(st.text(max_size=40))
def test_any_text_has_words(text: str) -> None:
    words = caption_words(text)
    assert all(words) and not any(word.isspace() for word in words)


@SETS
def test_bleu_equals_pycocoevalcap(case: dict) -> None:
    for i, metric in enumerate((BLEU_1, BLEU_2, BLEU_3, BLEU_4)):
        rows = metric.of(samples_of(case))
        assert metric.total(rows) == pytest.approx(case["bleu"][i], rel=1e-9)
        assert rows[:, 0] == pytest.approx(np.array(case["bleu_of_each"][i]), rel=1e-9, abs=1e-15)


@SETS
def test_rouge_and_cider_equal_pycocoevalcap(case: dict) -> None:
    for metric in (ROUGE_L, CIDER_D):
        rows = metric.of(samples_of(case))
        assert metric.total(rows) == pytest.approx(case[metric.name], rel=1e-9, abs=1e-12)
        assert rows[:, 0] == pytest.approx(np.array(case[f"{metric.name}_of_each"]), rel=1e-9, abs=1e-12)


@given(st.lists(WORDS.filter(lambda words: len(words) > 3), min_size=2, max_size=5, unique_by=tuple))
def test_cider_of_a_reference_is_10_where_no_n_gram_is_in_all(texts: list[list[str]]) -> None:
    marked = [[f"{word}{i}" for word in words] for i, words in enumerate(texts)]
    assert cider_d(marked, [[words] for words in marked]) == pytest.approx([10] * len(texts))


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_rouge_is_symmetric_in_order_and_in_range(words: list[str], references: list[list[str]]) -> None:
    score = rouge_l(words, references)
    assert 0 <= score <= 1 + 1e-12
    assert rouge_l(words, references[::-1]) == score
    assert rouge_l(words, [*references, words]) == pytest.approx(1)


def test_interval_of_a_corpus_score() -> None:
    found = measured(BLEU_4, samples_of(GOLDEN["sets"][0]))
    assert found.low < found.value < found.high and math.isfinite(found.low)


@pytest.mark.parametrize(
    ("record", "prediction", "message"),
    [
        ({"captions": "a dog"}, "a dog", "captions: expected a list of texts, with at least one, found str 'a dog'"),
        ({"captions": [3]}, "a dog", r"captions\[0\]"),
        ({"captions": ["a dog"]}, None, "prediction: expected a text, found None"),
    ],
)
def test_records_that_are_wrong(record: dict, prediction, message: str) -> None:
    for metric in (BLEU_4, ROUGE_L, CIDER_D):
        with pytest.raises(ConfigError, match=message):
            metric.of([Scored(record=record, prediction=prediction)])
