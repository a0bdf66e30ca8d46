"""Utterances: where they begin and end, whatever the pieces in which the sound comes."""

import numpy as np
import pytest

from polymodal.errors import ConfigError
from polymodal.pipelines.utterances import PIECE, RATE, Utterances, loudness

TONE = np.sin(np.arange(8 * PIECE) / 7).astype(np.float32)  # 2.05 s
QUIET = np.zeros(4 * PIECE, np.float32)


def heard(stream: np.ndarray, size: int, **options: float) -> list[tuple[int, int]]:
    ears = Utterances(**options)
    found = [each for start in range(0, len(stream), size) for each in ears.add(stream[start : start + size])]
    found += ears.finish()
    for each in found:
        assert np.array_equal(each.samples, stream[round(each.start * RATE) : round(each.end * RATE)])
    return [(round(each.start * RATE / PIECE), round(each.end * RATE / PIECE)) for each in found]


@pytest.mark.parametrize("size", [100, PIECE, 10**6])
def test_an_utterance_ends_behind_half_a_second_of_quiet(size: int) -> None:
    stream = np.concatenate((QUIET, TONE, QUIET, QUIET, TONE, QUIET))
    assert heard(stream, size) == [(3, 15), (19, 31)]


def test_short_pauses_do_not_end_it_and_short_sounds_are_none() -> None:
    stream = np.concatenate((QUIET, TONE, QUIET[:PIECE], TONE, QUIET, TONE[:PIECE], QUIET))
    assert heard(stream, PIECE) == [(3, 24)]
    assert heard(stream, PIECE, shortest=0.2) == [(3, 24), (24, 29)]


def test_what_goes_on_ends_with_the_stream_or_at_the_longest() -> None:
    assert heard(np.concatenate((QUIET, TONE)), PIECE) == [(3, 12)]
    assert heard(np.concatenate((QUIET, TONE, TONE)), PIECE, longest=2.0) == [(3, 11), (10, 18)]


def test_speech_is_whatever_the_caller_says() -> None:
    ears = Utterances(speech=lambda piece: 0.0)
    assert not [*ears.add(TONE), *ears.finish()]
    with pytest.raises(ConfigError, match=r"expected 0\.15 < start <= 1"):
        Utterances(start=0.1)


def test_loudness_grows_from_silence_to_speech() -> None:
    assert loudness(QUIET) == 0 and loudness(TONE) == 1 and 0 < loudness(TONE / 300) < 1
