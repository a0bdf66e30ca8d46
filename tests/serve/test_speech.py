"""/v1/audio/speech with OpenAI's client, over a speaker that hums."""

from collections.abc import Iterator

import openai
import pytest

from humming import humming
from polymodal.data.audio import read_audio
from polymodal.data.audio_writing import writable
from polymodal.data.limits import Limits
from polymodal.serve.app import create_app
from polymodal.serve.isolation import Decoders
from served import SETTINGS, call, error_of, running


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app({}, SETTINGS, {"kokoro": humming("af_heart", "af_alloy")})) as address:
        yield address


@pytest.fixture(scope="module")
def client(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_a_text_as_a_file_of_each_kind(client) -> None:
    lengths = {}
    for kind in writable()[:-1]:
        answer = client.audio.speech.create(model="kokoro", voice="alloy", input="A dead bed.", response_format=kind)
        lengths[kind] = len(read_audio(answer.read(), 24_000, Limits())) / 24_000
    assert all(abs(each - lengths["wav"]) < 0.2 for each in lengths.values()) and lengths["wav"] > 0.05
    assert (
        client.audio.speech.create(model="kokoro", voice="alloy", input="A bed.").response.headers["content-type"]
        == "audio/mpeg"
    )


def test_samples_come_as_they_are_spoken(client) -> None:
    text = "A bed. " * 100
    with client.audio.speech.with_streaming_response.create(
        model="kokoro", voice="af_heart", input=text, response_format="pcm"
    ) as answer:
        assert answer.headers["content-type"] == "audio/pcm;rate=24000"
        data = b"".join(answer.iter_bytes())
    whole = client.audio.speech.create(model="kokoro", voice="af_heart", input=text, response_format="wav").read()
    assert whole[-len(data) :] == data and len(data) > 10_000


def test_the_list_of_models_names_it(client) -> None:
    (card,) = client.models.list().data
    assert card.id == "kokoro" and card.can == ["speak"] and "af_heart" in card.voices
    assert client.models.retrieve("kokoro").id == "kokoro"


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"response_format": "wma"}, 400, "response_format: expected one of"),
        ({"voice": "af_hart"}, 400, "af_heart"),
        ({"voice": "nobody"}, 400, "voice"),
        ({"speed": 9}, 400, "speed"),
        ({"input": ""}, 400, "input"),
        ({"input": "…"}, 400, "no word that can be spoken"),
        ({"input": "a" * 5000}, 413, "the limit is 4,096"),
        ({"model": "tts-1"}, 404, "kokoro is"),
        ({"instructions": "Whisper."}, 400, "instructions"),
        ({"stream_format": "sse"}, 400, "stream_format"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_what_is_not_offered_is_refused(address, changes, status, told) -> None:
    body = {"model": "kokoro", "voice": "af_heart", "input": "A bed.", "response_format": "wav", **changes}
    found = call(address, "/v1/audio/speech", body)
    assert found[0] == status and told in error_of(found)


def test_a_server_without_a_voice_says_so(served) -> None:
    found = call(served[0], "/v1/audio/speech", {"model": "kokoro", "input": "Hello", "voice": "alloy"})
    assert found[0] == 404 and "none is" in error_of(found)


def test_sounds_of_words_are_found_in_a_child() -> None:
    pytest.importorskip("espeakng_loader")
    decoders = Decoders(1)
    try:
        assert decoders.ipa("hello", "en-us") == "həlˈo^ʊ"
        assert decoders.ipa("10 cats \ud800".encode("utf-8", "replace").decode(), "en-us").startswith("tˈɛn kˈæts")
    finally:
        decoders.close()
