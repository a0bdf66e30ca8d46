"""Text to speech: text as it is read, sounds in Kokoro's symbols, pieces, files; and Whisper hears what was said."""

import re
from importlib.util import find_spec

import numpy as np
import pytest

import polymodal as pm
from humming import Tones
from polymodal.data.audio import read_audio
from polymodal.data.audio_writing import encode_sound, writable
from polymodal.data.limits import Limits
from polymodal.errors import ConfigError, PromptError, UnknownName
from polymodal.pipelines.speaking.kokoro import RATE, WIDTH, read_voice
from polymodal.pipelines.speaking.kokoro_files import MODEL, VOICE_FILES
from polymodal.pipelines.speaking.phonemes import CONTEXT, SYMBOLS, phonemes, pieces, spelling
from polymodal.pipelines.speaking.sentences import clauses, sentences, written_out
from polymodal.pipelines.speaking.speaker import Speaker
from polymodal.weights.fetch import is_cached

ESPEAK = find_spec("espeakng_loader") is not None
needs_espeak = pytest.mark.skipif(not ESPEAK, reason="needs the package espeakng-loader")


def letters(clause: str, language: str) -> str:
    """A phonemizer that says every letter that Spanish keeps as itself."""
    return re.sub("[^a-z ]", "", clause.lower())


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("It cost $3.50.", "It cost 3 dollars and 50 cents."),
        ("It cost $1.", "It cost 1 dollar."),
        ("£2.01 and €5.00", "2 pounds and 1 penny and 5 euros"),
        ("$4 million", "4 million dollars"),
        ("Mr. Smith met Dr. Jones.", "Mister Smith met Doctor Jones."),
        ("in 1984, 1900, 1905, 2005 and 2024", "in 19 84, 19 hundred, 19 oh 5, 2005 and 20 24"),
        ("at 3:45, 4:00 or 5:05", "at 3 45, 4 o'clock or 5 oh 5"),
        ("1,984 of 1984.5, no.", "1,984 of 1984.5, no."),
        ("e.g. a cat", "for example a cat"),
    ],
)
def test_what_stands_for_words_is_written_out(written, read) -> None:
    assert written_out(written) == read


def test_sentences_end_where_a_reader_would_pause() -> None:
    text = 'He met J. Smith of the U.S.A. today. "Really?" It was 3.5 m.\n\nA title\n\nI did, as did I. But why…  Yes!'
    assert list(sentences(text)) == [
        "He met J. Smith of the U.S.A. today.", '"Really?"', "It was 3.5 m.", "A title", "I did, as did I.",
        "But why…", "Yes!",
    ]  # fmt: skip


def test_punctuation_is_kept_and_numbers_are_whole() -> None:
    assert clauses('"Hello, (again)," he said: 10,000.5 U.S.A. cats.') == [
        ("", "“"), ("Hello", ","), ("", "("), ("again", ")"), ("", ","), ("", "”"), ("he said", ":"),
        ("10,000.5 U.S.A. cats", "."), ("", ""),
    ]  # fmt: skip


def test_symbols_are_those_of_the_published_table() -> None:
    assert len(SYMBOLS) == 114 and len(set(SYMBOLS.values())) == 114
    assert [SYMBOLS[s] for s in "; aɑɐzʤˈː→ᵻ"] == [1, 16, 43, 69, 70, 68, 82, 156, 158, 171, 177]


def test_sounds_in_the_spelling_of_each_accent() -> None:
    assert spelling("d^ʒˈʌmps ˌo^ʊvɚ lˈe^ɪzi bˈɑːɾə^l", "a") == "ʤˈʌmps ˌOvəɹ lˈAzi bˈɑTᵊl"
    assert spelling("ɹˈə^ʊd wˈɔːtə ne^ə", "b") == "ɹˈQd wˈɔːtə nɛː"
    assert spelling("kˈa^ɪ \u4e2d", "e") == "kˈI "


def test_long_text_is_cut_into_pieces_that_fit() -> None:
    text = "This is a sentence. " * 60 + "word " * 400 + ". " + "x" * 1500 + "."
    found = list(pieces(text, "e", letters))
    assert all(1 <= len(symbols) <= CONTEXT for _, symbols in found)
    spoken = re.sub("[^a-z]", "", "".join(symbols for _, symbols in found))
    assert spoken == re.sub("[^a-fh-z]", "", text.lower())
    assert list(pieces("... !!! \n\n —", "e", letters)) == []


@pytest.fixture
def speaker(tmp_path, monkeypatch) -> tuple[Speaker, Tones]:
    """A speaker that hums, whose voice is of random numbers."""
    styles = np.random.default_rng(0).normal(size=(CONTEXT, 1, WIDTH)).astype("<f4")
    styles.tofile(tmp_path / "voice.bin")
    monkeypatch.setattr("polymodal.pipelines.speaking.speaker.fetch", lambda source, offline: tmp_path / "voice.bin")
    tones = Tones()
    return Speaker(tones, letters), tones


def test_a_voice_says_parts_of_a_text_in_order(speaker, tmp_path) -> None:
    speaker, tones = speaker
    voice = pm.Voice("af_heart", speaker)
    text = "One two three four five six seven eight nine ten. " * 10
    parts = list(voice.stream(text))
    assert len(parts) > 1 and " ".join(part.text for part in parts) == text.strip()
    whole = voice.say(text)
    assert whole.rate == RATE and np.array_equal(whole.samples, np.concatenate([part.samples for part in parts]))
    assert np.abs(whole.samples).max() <= 1 and whole.seconds == len(whole.samples) / RATE
    first = tones.given[0]
    count = first["input_ids"].shape[1] - 2
    assert first["input_ids"][0, 0] == first["input_ids"][0, -1] == 0
    style = read_voice(tmp_path / "voice.bin")[count - 1]
    assert np.array_equal(first["style"], style) and first["style"].shape == (1, WIDTH)
    assert voice.say("One.", speed=2.0).seconds == pytest.approx(voice.say("One.").seconds / 2, abs=1e-3)


def test_what_cannot_be_said_is_refused(speaker) -> None:
    voice = pm.Voice("af_heart", speaker[0])
    with pytest.raises(PromptError, match="no word that can be spoken"):
        voice.say("…")
    with pytest.raises(ConfigError, match=r"speed: expected 0\.25 to 4"):
        voice.say("Hello", speed=9)
    with pytest.raises(UnknownName, match="af_heart"):
        pm.Voice("af_hart", speaker[0])


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus", "aac"])
def test_files_hold_what_was_said(format) -> None:
    if format not in writable():
        pytest.skip(f"this PyAV writes no {format}")
    tone = np.sin(np.arange(RATE, dtype=np.float32) / 20) * 0.5
    found = read_audio(encode_sound(tone, RATE, format), RATE, Limits())
    assert abs(len(found) / RATE - 1) < 0.1
    if format in ("wav", "flac"):
        assert np.abs(found - tone).max() < 1e-4
    assert np.sqrt(np.mean(found[: len(tone)] ** 2)) == pytest.approx(np.sqrt(np.mean(tone**2)), rel=0.1)


def test_samples_alone_and_formats_that_are_not_there() -> None:
    assert encode_sound(np.array([0.0, 1.0, -2.0]), RATE, "pcm") == b"\0\0\xff\x7f\x01\x80"
    with pytest.raises(ConfigError, match="'wma'"):
        encode_sound(np.zeros(3), RATE, "wma")


@needs_espeak
@pytest.mark.parametrize(
    ("accent", "text", "symbols"),
    [
        ("a", "The quick brown fox, 3 zorbquists?", "ðə kwˈɪk bɹˈWn fˈɑks, θɹˈi zˈɔɹbkwɪsts?"),
        ("b", "The water bottle.", "ðə wˈɔːtə bˈɒtᵊl."),
        ("e", "¿Qué tal, señor?", "kˈe tˈal, seɲˈoɾ?"),
        ("f", "Il fait beau, week-end.", "il fˈɛ bˈo, wˈiːkˈɛnd."),
    ],
)
def test_espeak_reads_numbers_and_unknown_words(accent, text, symbols) -> None:
    assert phonemes(text, accent) == symbols


@pytest.mark.assets
@needs_espeak
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs the package onnxruntime")
@pytest.mark.skipif(not (is_cached(MODEL) and is_cached(VOICE_FILES["af_heart"])), reason="needs the weights of kokoro")
def test_whisper_hears_what_kokoro_says() -> None:
    try:
        ears = pm.load("mini", offline=True)
    except pm_error() as missing:
        pytest.skip(str(missing))
    said = "The quick brown fox jumps over the lazy dog. It is raining in London, Mr. Smith, and the train is late."
    speech = pm.voice(offline=True).say(said)
    heard = ears.transcribe((speech.samples, speech.rate)).text
    assert words(heard) == words(said)


def words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def pm_error():
    from polymodal.errors import PolymodalError

    return PolymodalError
