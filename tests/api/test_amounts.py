"""Requests that are too large are refused before they are tokenised, decoded or shown; the limits can be raised."""

import time

import numpy as np
import pytest

import polymodal as pm
from polymodal.api.asking import Stream, answer_batch, messages_of
from polymodal.api.inputs import check_labels, checked_item
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.output import GREEDY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["a b." * 2_500_000], "10,000,000 characters of text in one conversation, the limit is 1,000,000"),
        ([pm.image(np.zeros((8, 8, 3), np.uint8))] * 10_000 + ["What?"], "10,000 pictures, recordings or videos"),
    ],
    ids=["10 MB of prompt", "10,000 pictures"],
)
def test_conversations(content, message):
    """Before the model, here none, is asked for anything."""
    begin = time.perf_counter()
    with pytest.raises(PromptError, match=message):
        Stream(None, messages_of(content), GREEDY)
    with pytest.raises(PromptError, match=message):
        answer_batch(None, [tuple(content)], [GREEDY], batch_size=1)
    assert time.perf_counter() - begin < 5


def test_labels(monkeypatch):
    labels = [f"label {index}" for index in range(100_000)]
    with pytest.raises(PromptError, match=r"100,000 labels, the limit is 25,000 \(Limits.labels; .*labels=100000"):
        check_labels(labels)
    monkeypatch.setenv("POLYMODAL_LIMITS", "labels=100000,characters=2e6")
    assert check_labels(labels) == labels
    with pytest.raises(ConfigError, match="different labels") as caught:
        check_labels(["cat"] * 10_000)
    assert len(str(caught.value)) < 400


def test_texts_to_embed():
    assert checked_item(pm.text("cat")).text == "cat"
    with pytest.raises(PromptError, match=r"Limits\.characters"):
        checked_item(pm.text("a" * 1_000_001))
