"""tiny.en on real speech: word for word what openai-whisper wrote (fixtures/whisper_tiny_en.json).

Needs the published weights and vocabulary in the cache folder.  The recording in `examples` is always compared; set
POLYMODAL_SPEECH to a folder in which the Debian packages named in the fixture are unpacked for the other 52.
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polymodal.data.audio import read_audio
from polymodal.data.whisper_tokenizer import WhisperTokenizer
from polymodal.models.speech_seq2seq import (
    ENGLISH_RANKS,
    MULTILINGUAL_RANKS,
    OPENAI_KEYS,
    TINY_EN_WEIGHTS,
    WHISPER,
    SpeechSeq2Seq,
)
from polymodal.pipelines.transcription.search import SearchOptions
from polymodal.pipelines.transcription.transcribe import TranscribeOptions, Transcript, transcribe
from polymodal.weights.fetch import find
from polymodal.weights.read import read_torch
from polymodal.weights.source import Source

pytestmark = pytest.mark.assets

ROOT = Path(__file__).resolve().parents[2]
GOLDEN: list[dict[str, Any]] = json.loads((ROOT / "tests/fixtures/whisper_tiny_en.json").read_text("utf-8"))[
    "recordings"
]
GREEDY = TranscribeOptions(temperatures=(0.0,))


def cached(source: Source) -> Path:
    path = find(source)
    if path is None:
        pytest.skip(f"{source} is not in the cache folder")
    return path


@pytest.fixture(scope="module")
def whisper() -> tuple[SpeechSeq2Seq, WhisperTokenizer]:
    source = read_torch(cached(TINY_EN_WEIGHTS), key=TINY_EN_WEIGHTS.entry)
    size = WHISPER["tiny.en"]
    model = size.build().eval()
    model.load_state_dict(dict(OPENAI_KEYS.apply(source, model)))
    return model, size.read_tokenizer(cached(ENGLISH_RANKS))


def read_part(part: dict[str, str], folder: Path) -> np.ndarray:
    path = folder / part["file"]
    if not path.exists():
        pytest.skip(f"{path} is not there")
    if hashlib.sha256(path.read_bytes()).hexdigest() != part["sha256"]:
        assert folder != ROOT, f"{path} has changed; the fixture must be made again with the reference"
        pytest.skip(f"{path} is of another version of its package")
    if path.suffix == ".raw":
        return read_audio((np.fromfile(path, np.int16), 16_000), 16_000)
    return read_audio(path, 16_000)


def sound_of(recording: dict[str, Any], folder: Path) -> np.ndarray:
    parts = [read_part(part, folder) for part in recording["parts"]]
    silence = np.zeros(8_000, np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate([piece for part in parts for piece in (part, silence)])


def spans(transcript: Transcript) -> list[list[float | str]]:
    return [[round(item.start, 2), round(item.end, 2), item.text] for item in transcript.segments]


def compare(whisper: tuple[SpeechSeq2Seq, WhisperTokenizer], recording: dict[str, Any], folder: Path) -> None:
    sound = sound_of(recording, folder)
    assert transcribe(*whisper, sound, replace(GREEDY, timestamps=False)).text == recording["text"]
    assert spans(transcribe(*whisper, sound, GREEDY)) == recording["segments"]
    if "beam_segments" in recording:
        beams = replace(GREEDY, search=SearchOptions(beams=5))
        assert spans(transcribe(*whisper, sound, beams)) == recording["beam_segments"]


def test_the_recording_that_ships_with_the_project(whisper: tuple[SpeechSeq2Seq, WhisperTokenizer]) -> None:
    compare(whisper, GOLDEN[0], ROOT)


@pytest.mark.parametrize("recording", GOLDEN[1:], ids=lambda recording: recording["parts"][0]["file"].rsplit("/")[-1])
def test_recordings_of_the_packages(whisper: tuple[SpeechSeq2Seq, WhisperTokenizer], recording: dict[str, Any]) -> None:
    folder = os.environ.get("POLYMODAL_SPEECH")
    if not folder:
        pytest.skip("POLYMODAL_SPEECH names no folder of recordings")
    compare(whisper, recording, Path(folder))


def test_half_precision_hears_the_same(whisper: tuple[SpeechSeq2Seq, WhisperTokenizer]) -> None:
    """bfloat16 on the processor: the words stay, the scores move a little."""
    model = WHISPER["tiny.en"].build().eval()
    model.load_state_dict(whisper[0].state_dict())
    sound = sound_of(GOLDEN[0], ROOT)
    found = transcribe(model.to(torch.bfloat16), whisper[1], sound, GREEDY)
    expected = transcribe(*whisper, sound, GREEDY)
    assert found.text == expected.text
    assert abs(found.segments[0].avg_logprob - expected.segments[0].avg_logprob) < 0.1


@pytest.mark.parametrize(("source", "size"), [(ENGLISH_RANKS, "tiny.en"), (MULTILINGUAL_RANKS, "tiny")])
def test_published_vocabularies_equal_tiktoken(source: Source, size: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from polymodal.data.whisper_tokenizer import WORD_PATTERN

    words = WHISPER[size].read_tokenizer(cached(source))
    oracle = tiktoken.Encoding(size, pat_str=WORD_PATTERN, mergeable_ranks=words.ranks, special_tokens={})
    texts = [recording["text"] for recording in GOLDEN] + [Path(__file__).read_text("utf-8"), "Übung, 你好 — Привет!"]
    for text in texts:
        ids = words.encode(text)
        assert ids == oracle.encode_ordinary(text)
        assert words.decode(ids) == text


def test_symbols_nobody_speaks_equal_the_published_lists() -> None:
    lists = pytest.importorskip("transformers.models.whisper.configuration_whisper")
    for source, size, published in (
        (ENGLISH_RANKS, "tiny.en", lists.NON_SPEECH_TOKENS),
        (MULTILINGUAL_RANKS, "tiny", lists.NON_SPEECH_TOKENS_MULTI),
    ):
        words = WHISPER[size].read_tokenizer(cached(source))
        assert set(words.non_speech_ids) == set(published) - set(words.control_ids)
