"""BLEU of translations equals sacrebleu's.

`fixtures/evaluate_translation.json` holds what sacrebleu ("source") gave, outside the project, for texts joined at
random (seed 0) of words with punctuation, numbers and entities: the words, the score of five sets with three
references, and `sentence_score` with `effective_order` of each text.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored
from polymodal.evaluate.translation import TRANSLATION_BLEU, words_13a

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_translation.json").read_text(encoding="utf-8"))


def test_words_equal_sacrebleu() -> None:
    assert [words_13a(text) for text, _ in GOLDEN["words"]] == [words for _, words in GOLDEN["words"]]


@pytest.mark.parametrize("case", GOLDEN["sets"], ids=lambda case: f"{len(case['predictions'])} texts")
def test_scores_equal_sacrebleu(case: dict) -> None:
    rows = TRANSLATION_BLEU.of(
        [
            Scored(record={"references": references}, prediction=prediction)
            for references, prediction in zip(case["references"], case["predictions"], strict=True)
        ]
    )
    assert TRANSLATION_BLEU.total(rows) == pytest.approx(case["bleu"], abs=1e-12)
    assert rows[:, 0] == pytest.approx(np.array(case["bleu_of_each"]), abs=1e-12)


@given(st.lists(st.sampled_from(["ein", "Haus", "3.5", "gut,"]), min_size=4, max_size=9).map(" ".join), st.text())
def test_a_reference_repeated_scores_1(text: str, other: str) -> None:
    rows = TRANSLATION_BLEU.of([Scored(record={"references": [other, text]}, prediction=text)])
    assert TRANSLATION_BLEU.total(rows) == pytest.approx(1)


def test_a_record_without_references_is_named() -> None:
    with pytest.raises(ConfigError, match="expected a field 'references', found text"):
        TRANSLATION_BLEU.of([Scored(record={"text": "a"}, prediction="a")])
