"""Word and character error rates equal jiwer's on normalised texts."""

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored, measured
from polymodal.evaluate.speech import CER, WER, normalise_characters, normalise_words

WORDS = st.lists(st.sampled_from(["the", "cat", "cats", "sat", "Mat", "don't"]), max_size=8).map(" ".join)
CHARACTERS = st.text(st.sampled_from("今天天气很好吗"), max_size=8)


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=4))
def test_words_equal_jiwer(pairs: list[tuple[str, str]]) -> None:
    samples = [Scored(record={"text": said}, prediction=heard) for said, heard in pairs]
    said, heard = ([text.lower() for text in side] for side in zip(*pairs, strict=True))
    assert WER.total(WER.of(samples)) == pytest.approx(jiwer.wer(said, heard), abs=1e-12)


@given(st.lists(st.tuples(CHARACTERS.filter(bool), CHARACTERS), min_size=1, max_size=4))
def test_characters_equal_jiwer(pairs: list[tuple[str, str]]) -> None:
    samples = [Scored(record={"text": said}, prediction=heard) for said, heard in pairs]
    said, heard = (list(side) for side in zip(*pairs, strict=True))
    assert CER.total(CER.of(samples)) == pytest.approx(jiwer.cer(said, heard), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HE DIDN'T, SAY SO.", "he didn't say so"),
        ("“Don’t!” said the 'boys'", "don't said the boys"),
        ("rock'n'roll in the '90s — snake_case, 3.5", "rock'n'roll in the 90s snake case 3 5"),
        ("Ça va, Zoë?", "ça va zoë"),
        ("", ""),
    ],
)
def test_normalised_words(text: str, words: str) -> None:
    assert normalise_words(text) == words


def test_normalised_characters() -> None:
    assert normalise_characters("今天，天气 很好！ＡＢＣ_１２３") == "今天天气很好abc123"


def test_rates_of_records() -> None:
    samples = [
        Scored(record={"text": "The cat sat."}, prediction="the cat sat"),
        Scored(record={"text": "On the mat"}, prediction="in mat"),
        Scored(record={"text": "..."}, prediction="oh"),  # no word: one error more
    ]
    assert WER.of(samples) == pytest.approx(np.array([[0, 3], [2, 3], [1, 0]]))
    found = measured(WER, samples)
    assert (found.name, found.value, found.n) == ("wer", 0.5, 3)
    assert measured(CER, [Scored(record={"text": "你好。"}, prediction="你号")]).value == 0.5
    assert np.isnan(measured(WER, samples[2:]).value)


@pytest.mark.parametrize(
    ("record", "prediction", "message"),
    [({}, "a", "expected a field 'text', found none"), ({"text": "a"}, None, "prediction: expected a text")],
)
def test_records_that_are_wrong(record: dict, prediction, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WER.of([Scored(record=record, prediction=prediction)])
