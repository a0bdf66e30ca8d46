"""Captions are cleaned as the official ALBEF and BLIP data code does it."""

import pytest

from polymodal.data.captions import clean_caption


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A man's <person>-photo!!  (2/3)", "a mans person photo 2 3"),
        ("  Two   Cats, sleeping; on: a *couch*~#  \n", "two cats sleeping on a couch"),
        ("", ""),
    ],
)
def test_punctuation_goes_and_spaces_are_single(text: str, wanted: str) -> None:
    assert clean_caption(text) == wanted


def test_at_most_thirty_words_stay() -> None:
    assert len(clean_caption("word " * 50).split()) == 30
    assert clean_caption("a b c", words=2) == "a b"
