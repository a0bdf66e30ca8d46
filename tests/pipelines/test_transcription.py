"""Windows, fallback, silence and segments, on a tiny random model; cutting at timestamps by hand-made examples."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import ConfigError, MediaError, UnknownName
from polymodal.models.speech_seq2seq import SpeechSeq2Seq
from polymodal.pipelines.transcription.search import SearchOptions, WindowResult
from polymodal.pipelines.transcription.token_rules import TokenRules
from polymodal.pipelines.transcription.transcribe import (
    TranscribeOptions,
    Transcription,
    compression_ratio,
    cut,
    spectrogram,
    transcribe,
)
from whisper_tiny import model, tokenizer

WORDS = tokenizer()
BEGIN = WORDS.timestamp_begin
FRAMES = 100  # a window of one second
QUICK = TranscribeOptions(
    language="en",
    temperatures=(0.0,),
    repetition_limit=None,
    logprob_limit=None,
    no_speech_limit=None,
    search=SearchOptions(longest=8),
    rules=TokenRules(latest_start=0.2),
)
# Words alone: a random model, unlike a trained one, would write timestamps also where none are asked for.
PLAIN = replace(QUICK, timestamps=False, rules=TokenRules(suppress=tuple(range(WORDS.eot + 1, WORDS.vocab_size))))


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that changes, so that windows differ."""
    generator = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    return (generator.standard_normal(count) * np.linspace(0.01, 0.3, count)).astype(np.float32)


def count_calls(network: SpeechSeq2Seq) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    network.audio.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    return seen


def test_cut_into_closed_segments() -> None:
    """One segment from 0 to 2 s, the next begins at 2.4 s and is left open."""
    tokens = [BEGIN, 5, 6, BEGIN + 100, BEGIN + 120, 7, 8]
    pieces, advance = cut(tokens, 3000, BEGIN)
    assert pieces == [(0.0, 2.0, (BEGIN, 5, 6, BEGIN + 100))]
    assert advance == 200  # continue at the last closed stamp, 2.0 s


def test_a_single_stamp_at_the_end_closes_the_window() -> None:
    tokens = [BEGIN, 5, BEGIN + 100, BEGIN + 120, 7, BEGIN + 150]
    pieces, advance = cut(tokens, 2500, BEGIN)
    assert [piece[:2] for piece in pieces] == [(0.0, 2.0), (2.4, 3.0)]
    assert advance == 2500


@pytest.mark.parametrize(
    ("tokens", "end"),
    [([5, 6], 7.0), ([BEGIN, 5, 6], 7.0), ([BEGIN, 5, BEGIN + 150], 3.0), ([BEGIN + 10, 5], 0.2), ([], 7.0)],
)
def test_without_pairs_the_window_is_one_segment(tokens: list[int], end: float) -> None:
    pieces, advance = cut(tokens, 700, BEGIN)
    assert pieces == [(0.0, pytest.approx(end), tuple(tokens))]
    assert advance == 700


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 50), st.integers(BEGIN, BEGIN + 1500)), max_size=12), st.integers(1, 3000))
def test_cutting_always_moves_on_and_keeps_every_closed_token(tokens: list[int], frames: int) -> None:
    pieces, advance = cut(tokens, frames, BEGIN)
    assert advance > 0
    joined = [token for _, _, ids in pieces for token in ids]
    assert joined == tokens[: len(joined)]


def test_windows_cover_a_long_recording_and_each_is_encoded_once() -> None:
    network = model(FRAMES)
    seen = count_calls(network)
    unsure = replace(PLAIN, temperatures=(0.0, 0.5, 1.0), logprob_limit=0.0)  # every attempt fails
    transcript = transcribe(network, WORDS, sound(2.5), unsure)
    assert len(seen) == 3
    assert transcript.seconds == 2.5
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert all(0 <= segment.start < segment.end <= 2.5 for segment in transcript.segments)
    assert {segment.temperature for segment in transcript.segments} == {1.0}
    whole = spectrogram(network, sound(2.5)).window(0, 250)
    assert whole.shape == (80, 250)
    assert torch.equal(seen[1][0], whole[:, 100:200])
    assert torch.equal(seen[2][0, :, :50], whole[:, 200:])
    assert not seen[2][0, :, 50:].any()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 45), st.integers(0, 4)), min_size=30, max_size=60))
def test_words_at_the_borders_of_windows_are_neither_lost_nor_doubled(words: list[tuple[int, int]]) -> None:
    """A decoder that hears each word where it is, and of one that a border cuts only the beginning."""
    spoken, time = [], 0  # in timestamps: fiftieths of a second, of which a window holds 50
    for index, (length, pause) in enumerate(words):
        spoken.append((time + pause, time + pause + length, ord("!") + index))
        time += pause + length
    work = Transcription(model(FRAMES), WORDS, sound(time / 50), QUICK)

    def hear(seek: int, previous: Sequence[int]) -> WindowResult:
        first, tokens = seek // 2, []
        heard = [each for each in spoken if first <= each[0] < first + 50]
        for begin, end, word in heard:
            tokens += [BEGIN + begin - first, word] + [BEGIN + end - first] * (end <= first + 50)
        assert not any(begin < first < end for begin, end, _ in spoken), "a window that begins inside a word"
        return WindowResult(tokens=tuple(tokens), avg_logprob=0.0, no_speech_prob=0.0)

    work._encode_window, work._decode_window = lambda seek: seek, hear  # type: ignore[method-assign, assignment, return-value]
    windows = list(work.windows())
    tokens = [token for window in windows for segment in window.segments for token in segment.tokens]
    assert [token for token in tokens if token < BEGIN] == [word for _, _, word in spoken]
    for segment, (begin, end, _) in zip(work.transcript(windows).segments, spoken, strict=True):
        assert segment.start - 1e-6 <= begin / 50 < segment.end <= end / 50 + 1e-6 or len(segment.tokens) == 2
    assert "".join(window.text for window in windows).strip() == work.transcript(windows).text
    times = [window.until for window in windows]
    assert times == sorted(set(times)) and times[-1] == windows[0].seconds == work.seconds


def test_spectrogram_of_the_whole_fades_into_silence() -> None:
    """Equal to the log-mel of the recording followed by thirty seconds of silence."""
    from polymodal.data.mel import MelConfig, log_mel

    wave = sound(1.234)
    padded = np.concatenate((wave, np.zeros(480_000, np.float32)))
    expected = log_mel(padded, MelConfig(seconds=None))[:, : len(wave) // 160]
    torch.testing.assert_close(spectrogram(model(FRAMES), wave).window(0, 10_000), expected, atol=2e-6, rtol=0)


def test_answers_are_reproducible_and_seeded() -> None:
    network, options = model(FRAMES, seed=1), replace(QUICK, temperatures=(1.0,))
    once = transcribe(network, WORDS, sound(2.0), options)
    assert transcribe(network, WORDS, sound(2.0), options) == once
    assert transcribe(network, WORDS, sound(2.0), replace(options, seed=5)) != once


def test_what_was_said_is_told_to_the_next_window() -> None:
    network, prompts = model(FRAMES), []
    network.backbone.embed_tokens.register_forward_pre_hook(lambda _, args: prompts.append(args[0]))

    def starts(options: TranscribeOptions) -> list[list[int]]:
        prompts.clear()
        transcribe(network, WORDS, sound(2.0), options)
        return [ids[0].tolist() for ids in prompts if ids.shape[1] > 1]

    plain = [*WORDS.start(language="en", timestamps=False)]
    silent = PLAIN
    first, second = starts(silent)
    assert first == plain
    assert second[0] == WORDS.sot_prev
    assert second[-len(plain) :] == plain
    written = transcribe(network, WORDS, sound(2.0), silent).segments[0].tokens
    assert second[1 : -len(plain)] == list(written)
    assert starts(replace(silent, condition_on_previous=False)) == [plain, plain]
    assert starts(replace(silent, temperatures=(0.9,))) == [plain, plain]  # drawn too freely to be trusted
    assert starts(replace(silent, prompt="the whale"))[0][1 : -len(plain)] == WORDS.encode(" the whale")


def test_a_window_without_speech_is_skipped() -> None:
    network = model(FRAMES)
    quiet = replace(QUICK, no_speech_limit=0.0, logprob_limit=0.0, temperatures=(0.0, 1.0))
    seen = count_calls(network)
    transcript = transcribe(network, WORDS, sound(2.0), quiet)
    assert (transcript.text, transcript.segments) == ("", ())
    assert len(seen) == 2
    sure = replace(quiet, logprob_limit=-100.0)  # silent by that token, but sure of its words
    assert transcribe(network, WORDS, sound(2.0), sure).segments


def test_repetition_is_tried_again() -> None:
    assert compression_ratio("") == 0
    assert compression_ratio("the same again. " * 30) > 2.4 > compression_ratio("A sentence that says something once.")
    network = model(FRAMES)
    strict = replace(PLAIN, repetition_limit=0.01, temperatures=(0.0, 0.7))
    assert {segment.temperature for segment in transcribe(network, WORDS, sound(1.0), strict).segments} == {0.7}


def test_language_is_heard_in_the_first_window_which_is_encoded_once() -> None:
    network = model(FRAMES)
    seen = count_calls(network)
    result = transcribe(network, WORDS, sound(1.5), replace(PLAIN, language=None))
    assert result.language in WORDS.language_codes
    assert len(seen) == 2
    named = transcribe(network, WORDS, sound(1.5), replace(PLAIN, language=result.language))
    assert named == result


def test_task_and_language_reach_the_model() -> None:
    network, english = model(FRAMES), tokenizer(multilingual=False)
    other = replace(QUICK, language="French", task="translate")
    assert Transcription(network, WORDS, sound(0.5), other).language == "fr"
    with pytest.raises(UnknownName, match="klingon"):
        transcribe(network, WORDS, sound(0.5), replace(QUICK, language="klingon"))
    with pytest.raises(ConfigError, match="multilingual"):
        transcribe(model(FRAMES, multilingual=False), english, sound(0.5), replace(QUICK, task="translate"))


def test_beams_find_an_answer_at_least_as_likely() -> None:
    network = model(FRAMES, seed=4)
    greedy = transcribe(network, WORDS, sound(0.8), PLAIN)
    search = SearchOptions(beams=4, longest=8)
    beamed = transcribe(network, WORDS, sound(0.8), replace(PLAIN, search=search))
    assert beamed.segments[0].avg_logprob >= greedy.segments[0].avg_logprob - 0.05


def test_sounds_that_are_no_recording() -> None:
    network = model(FRAMES)
    with pytest.raises(MediaError, match=r"mono samples \[n\]"):
        transcribe(network, WORDS, np.zeros((2, 16_000), np.float32), QUICK)
    assert transcribe(network, WORDS, np.zeros(100, np.float32), QUICK).segments == ()  # shorter than one frame


def test_digital_silence_is_no_speech_and_is_not_listened_to() -> None:
    """A random model always writes something; a window in which nothing sounds is neither encoded nor decoded."""
    network = model(FRAMES)
    seen = count_calls(network)
    for wave in (np.zeros(48_000, np.float32), np.full(20_000, 9e-5, np.float32)):
        assert transcribe(network, WORDS, wave, QUICK).text == "" and not seen
    loud = sound(1.0)
    with_gap = np.concatenate((loud, np.zeros(32_000, np.float32), loud))
    found = transcribe(network, WORDS, with_gap, PLAIN)
    assert len(seen) == 2 and [segment.start for segment in found.segments] == [0.0, 3.0]
    whole = transcribe(network, WORDS, with_gap, replace(PLAIN, silence_limit=None))
    assert len(seen) == 2 + 4 and len(whole.segments) > 2
