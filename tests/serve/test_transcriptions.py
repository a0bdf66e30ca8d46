"""Recordings as text, with times, as subtitles and as they are heard, with OpenAI's client; all with one transcript."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from polymodal.pipelines.transcription.transcribe import Segment, Window
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from served import SETTINGS, running

SPEECH = Path("examples/speech.flac")
HEARD = (
    Segment(start=0.0, end=1.5, text=" One <two>\n\nthree.", tokens=(5, 6), avg_logprob=-0.5),
    Segment(start=3725.25, end=3727.0, text=" Four & five."),
)


@pytest.fixture(scope="module")
def client(llava) -> Iterator[openai.OpenAI]:
    """Of a server whose model hears always the same."""

    def windows(recording) -> Iterator[Window]:
        seconds = len(recording.samples(16_000)) / 16_000
        for segment in HEARD:
            yield Window(text=segment.text, segments=(segment,), until=segment.end, seconds=seconds)

    parts = llava._parts
    llava._parts = replace(parts, transcribe=lambda recording: "", transcribe_windows=windows)
    with running(create_app({"ears": ServedModel("ears", llava, SETTINGS)}, SETTINGS)) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    llava._parts = parts


def hear(client, **given):
    return client.audio.transcriptions.create(model="ears", file=SPEECH, **given)


def test_plain_forms(client) -> None:
    assert hear(client).text == "One <two>\n\nthree. Four & five."
    assert hear(client, response_format="text") == "One <two>\n\nthree. Four & five.\n"


def test_segments_with_times(client) -> None:
    found = hear(client, response_format="verbose_json", timestamp_granularities=["segment"])
    assert found.text.startswith("One") and found.duration == pytest.approx(3.0, abs=60)
    assert [(each.start, each.end, each.text, each.id) for each in found.segments] == [
        (each.start, each.end, each.text, index) for index, each in enumerate(HEARD)
    ]
    assert found.segments[0].tokens == [5, 6] and found.segments[0].avg_logprob == -0.5


def test_subtitles(client) -> None:
    assert hear(client, response_format="srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne <two> three.\n\n2\n01:02:05,250 --> 01:02:07,000\nFour & five.\n"
    )
    assert hear(client, response_format="vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne &lt;two&gt; three.\n\n"
        "01:02:05.250 --> 01:02:07.000\nFour &amp; five.\n"
    )


def test_a_stream_gives_what_is_heard_as_it_is(client) -> None:
    events = list(hear(client, stream=True))
    assert [each.type for each in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(each.delta for each in events[:2]).strip() == events[2].text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"response_format": "yaml"}, "response_format"),
        ({"timestamp_granularities": ["word"], "response_format": "verbose_json"}, "words have no times"),
        ({"timestamp_granularities": ["segment"]}, "goes with response_format verbose_json"),
        ({"stream": True, "response_format": "srt"}, "stream goes with"),
        ({"language": "de"}, "language is not offered"),
        ({"file": ("a.wav", b"RIFF")}, "recording"),
        ({"file": ("a.wav", b"RIFF"), "stream": True}, "recording"),
    ],
)
def test_what_cannot_be_is_named(client, given, words) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(words)):
        client.audio.transcriptions.create(**{"model": "ears", "file": SPEECH, **given})
