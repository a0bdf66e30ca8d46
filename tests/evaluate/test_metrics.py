import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.metrics import (
    Proportion,
    content_word,
    error_rate,
    exact_name,
    normalise_answer,
    ranks,
    recall_at,
    wilson,
    word_errors,
    yes_or_no,
)


def test_wilson_equals_the_published_example() -> None:
    # Newcombe 1998 (Statistics in Medicine 17), table I, method 3: 81/263 and 15/148
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    with pytest.raises(ConfigError, match="hits=3, n=2"):
        wilson(3, 2)


@given(st.integers(1, 500), st.data())
def test_the_interval_holds_the_share(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("A cat.", "cat"),
        ("It is an ice cream!", "ice cream"),
        ("This is the Eiffel-Tower. It is tall.", "eiffel tower"),
        ("there are some apples", "apples"),
        ("thesaurus", "thesaurus"),
        ("", ""),
    ],
)
def test_plain(answer: str, said: str) -> None:
    assert normalise_answer(answer) == said


def test_names_and_words() -> None:
    assert exact_name("Some apples.", ["apple"])
    assert not exact_name("A red apple.", ["apple"])
    assert not exact_name("A cat.", ["car"])
    assert content_word("A small red bus on a road", ["buses", "bus"])
    assert not content_word("A business", ["bus"])
    assert [yes_or_no(a) for a in ("Yes, it is.", " no", "Nothing", "maybe yes")] == ["yes", "no", None, None]


def test_a_constant_model_gets_no_credit_in_retrieval() -> None:
    found = ranks(torch.zeros(4, 10), [[0], [1], [2, 3], [9]])
    assert found == [9, 9, 8, 9] and recall_at(found, 1).hits == 0 and recall_at(found, 5).hits == 0
    found = ranks(torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]]), [[2], [0, 2]])
    assert found == [1, 0] and str(recall_at(found, 1)).startswith("50.0 %")
    assert Proportion(0, 0).interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("right", "heard", "errors"),
    [("a b c d", "a x c", 2), ("a b", "", 2), ("a b", "a b", 0), ("", "a", 1), ("a b c", "b c d e", 3)],
)
def test_word_errors(right: str, heard: str, errors: int) -> None:
    assert word_errors(right, heard) == (errors, len(right.split()))


def test_the_error_rate_lies_in_its_interval() -> None:
    value, low, high = error_rate([(1, 4), (0, 3), (2, 3)] * 10)
    assert value == 0.3 and low < value < high
    with pytest.raises(ConfigError, match="at least one word"):
        error_rate([(1, 0)])
