"""Spans of time in the words that models write them in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.evaluate.spans import spans_in


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("From 3.5 to 10 seconds.", [[3.5, 10]]),
        ("It starts at 3.5s and ends at 10s.", []),  # no two times are joined
        ("between 3 seconds and 10 seconds", [[3, 10]]),
        ("00:03 - 00:10", [[3, 10]]),
        ("1:00:03 to 1:00:10.5", [[3603, 3610.5]]),
        ("[3.5, 10.0]", [[3.5, 10]]),
        ("start: 3, end: 10", [[3, 10]]),
        ("从3秒到10秒", [[3, 10]]),
        ("{0.25,0.50}", [[25, 50]]),
        ("{0.25,0.50} and then 3-4 s", [[25, 50], [3, 4]]),
        ("from 10 to 3", []),
        ("Nothing happens.", []),
        ("2 dogs", []),
    ],
)
def test_spans(text: str, spans: list) -> None:
    assert spans_in(text, lambda: 100.0) == spans


@given(st.text(alphabet="0123456789.:{},-to s", max_size=40))
def test_any_text_gives_spans_or_none(text: str) -> None:
    assert all(start < end for start, end in spans_in(text, lambda: 10.0))
