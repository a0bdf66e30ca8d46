"""The token rules against transformers' logits processors, on random scores and random pasts; equal to the bit."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.pipelines.transcription.token_rules import TokenRules
from whisper_tiny import tokenizer

WORDS = tokenizer()
STAMP = st.integers(WORDS.timestamp_begin, WORDS.timestamp_begin + 60)
PAST = st.lists(st.one_of(st.integers(0, WORDS.eot - 1), STAMP), max_size=8)


def scores(rows: int, seed: int, tilt: float) -> torch.Tensor:
    """Random logits; `tilt` raises the timestamps so that the rule about their joint mass goes both ways."""
    values = torch.randn(rows, WORDS.vocab_size, generator=torch.Generator().manual_seed(seed)) * 3
    values[:, WORDS.timestamp_begin :] += tilt
    return values


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-12, 4), st.lists(PAST, min_size=1, max_size=3))
def test_timestamps_equal_transformers(seed: int, tilt: float, pasts: list[list[int]]) -> None:
    processors = pytest.importorskip("transformers.generation.logits_process")
    length = min(len(past) for past in pasts)
    pasts = [past[:length] for past in pasts]
    generation = SimpleNamespace(
        no_timestamps_token_id=WORDS.no_timestamps, eos_token_id=WORDS.eot, bos_token_id=WORDS.eot,
        max_initial_timestamp_index=50,
    )  # fmt: skip
    theirs = processors.WhisperTimeStampLogitsProcessor(generation, begin_index=3)
    never = [*WORDS.control_ids, *WORDS.non_speech_ids]
    given_scores = scores(len(pasts), seed, tilt)
    expected = given_scores.clone()
    ids = torch.tensor([[WORDS.sot, 300, 301, *past] for past in pasts])
    if not length:
        expected = processors.SuppressTokensAtBeginLogitsProcessor(list(WORDS.blank_ids), 3)(ids, expected)
    expected = theirs(ids, processors.SuppressTokensLogitsProcessor(never)(ids, expected))
    found = TokenRules().build(WORDS, timestamps=True).apply(given_scores, pasts)
    assert torch.equal(found, expected)


def test_without_timestamps_only_symbols_and_controls_are_barred() -> None:
    rules = TokenRules().build(WORDS, timestamps=False)
    free = torch.isfinite(rules.apply(torch.zeros(1, WORDS.vocab_size), [[5]])[0])
    barred = {*WORDS.control_ids, *WORDS.non_speech_ids}
    assert {index for index, allowed in enumerate(free.tolist()) if not allowed} == barred
    first = torch.isfinite(rules.apply(torch.zeros(1, WORDS.vocab_size), [[]])[0])
    assert {index for index, allowed in enumerate(first.tolist()) if not allowed} == barred | set(WORDS.blank_ids)


def test_settings_lift_rules() -> None:
    open_rules = TokenRules(latest_start=None, non_speech=True, blank=True, suppress=(7,)).build(WORDS, timestamps=True)
    free = torch.isfinite(open_rules.apply(torch.zeros(1, WORDS.vocab_size), [[]])[0])
    assert free[WORDS.timestamp_begin :].all()  # may start anywhere
    plain = TokenRules(non_speech=True, blank=True, suppress=(7,)).build(WORDS, timestamps=False)
    free = torch.isfinite(plain.apply(torch.zeros(1, WORDS.vocab_size), [[]])[0])
    assert not free[7]
    assert free[list(WORDS.blank_ids)].all()
    assert free[list(set(WORDS.non_speech_ids) - {7})].all()
