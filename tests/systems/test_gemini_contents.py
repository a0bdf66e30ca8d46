"""generateContent's JSON: read into messages and written back, both spellings, what is refused."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.evidence.gemini import written_folder
from polymodal.check.film import film
from polymodal.data.media import Audio, Image, Text, Video
from polymodal.data.messages import Message
from polymodal.errors import PromptError
from polymodal.systems.gemini.contents import Call, read, write


def saved(form: str) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (5, 4), "red").save(file, form)
    return file.getvalue()


def recorded(form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(4000)), 16_000, format=form)
    return file.getvalue()


FILES = (
    ("image/png", saved("PNG")),
    ("image/jpeg", saved("JPEG")),
    ("audio/wav", recorded("WAV")),
    ("audio/flac", recorded("FLAC")),
    ("video/x-matroska", film([Pillow.new("RGB", (32, 32), "blue")] * 2)),
)
JSON = st.dictionaries(st.text(max_size=5), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2), max_leaves=5,
), max_size=3)  # fmt: skip
NAMES = st.text(min_size=1, max_size=8)


def inline(mime: str, data: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": base64.b64encode(data).decode()}}


PARTS = st.one_of(
    st.builds(lambda text: {"text": text}, st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
    st.sampled_from([inline(*each) for each in FILES]),
    st.builds(lambda name, args: {"functionCall": {"name": name, "args": args}}, NAMES, JSON),
    st.builds(lambda name, args: {"functionResponse": {"name": name, "response": args}}, NAMES, JSON),
)
LISTS = st.lists(PARTS, min_size=1, max_size=4)
CONTENTS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "model", "function"]), "parts": LISTS}),
    min_size=1,
    max_size=4,
)
REQUESTS = st.fixed_dictionaries(
    {"contents": CONTENTS}, optional={"systemInstruction": st.fixed_dictionaries({"parts": LISTS})}
)


@given(REQUESTS)
def test_what_is_read_is_written_back(request: dict[str, Any]) -> None:
    messages = read(request)
    assert write(messages) == request
    assert read(write(messages)) == messages


def test_both_spellings_and_single_parts_are_read() -> None:
    mime, data = FILES[0]
    old = {
        "system_instruction": {"parts": {"text": "Be short."}},
        "contents": [
            {"parts": [{"text": "See"}, {"inline_data": {"mime_type": mime, "data": base64.b64encode(data).decode()}}]},
            {"role": "model", "parts": [{"function_call": {"name": "f", "args": {"x": 1}}}]},
            {"role": "function", "parts": [{"function_response": {"name": "f", "response": {"y": 2}}}]},
        ],
    }
    assert read(old) == (
        Message(role="system", parts=(Text("Be short."),)),
        Message(role="user", parts=(Text("See"), Image(data))),
        Message(role="assistant", parts=(Call('{"functionCall": {"name": "f", "args": {"x": 1}}}'),)),
        Message(role="tool", parts=(Call('{"functionResponse": {"name": "f", "response": {"y": 2}}}'),)),
    )


def test_a_request_is_answered(tmp_path) -> None:
    written_folder(tmp_path)
    model = pm.load(tmp_path)
    parts = [{"text": "See, hear, watch"}, *(inline(*each) for each in FILES)]
    messages = read({"contents": [{"role": "user", "parts": parts}]})
    assert [type(each) for each in messages[0].media] == [Image, Image, Audio, Audio, Video]
    batch = model.processor(list(messages), generate=True)
    assert len(batch["pixel_values"]) == 4 and len(batch["audio_values"]) == 2
    answer = model.chat(list(messages), max_tokens=3).text
    assert write([Message(role="assistant", parts=(Text(answer),))])["contents"][0]["role"] == "model"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "contents: expected a list of at least one content"),
        ("Hi", "contents: expected a list"),
        ([3], r"contents\[0\]: expected an object, found int"),
        ([{"role": "system", "parts": [{"text": "a"}]}], r"role 'system' is not known; expected user, model, function"),
        ([{"role": ["user"], "parts": [{"text": "a"}]}], "role .* is not known"),
        ([{"parts": []}], r"contents\[0\].parts: expected a list of at least one part"),
        ([{"parts": [{}]}], r"parts\[0\]: expected one of text, inlineData, functionCall, .*, found none"),
        ([{"parts": [{"text": "a", "inlineData": {}}]}], r"found \['text', 'inlineData'\]"),
        ([{"parts": [{"text": 3}]}], r"text: expected a text, found int"),
        ([{"parts": [{"fileData": {"fileUri": "gs://a"}}]}], r"fileData: nothing is fetched from a URI"),
        ([{"parts": [inline("application/pdf", b"a")]}], r"found 'application/pdf'"),
        ([{"parts": [{"inlineData": {"mimeType": "image/png", "data": "%"}}]}], r"data: expected base64 of a file"),
        ([{"parts": [{"functionCall": {"args": {}}}]}], r"functionCall: expected a name and, as args, an object"),
    ],
)  # fmt: skip
def test_what_is_no_request_costs_a_line(content: Any, told: str) -> None:
    with pytest.raises(PromptError, match=told):
        read({"contents": content})


def test_what_the_interface_does_not_have_is_not_written() -> None:
    for part in (pm.audio((np.zeros(10, np.float32), 16_000)), Image(recorded("WAV"))):
        with pytest.raises(PromptError, match=r"messages\[0\]: expected .* as the bytes of a file"):
            write([Message(role="user", parts=(part,))])
    with pytest.raises(PromptError, match=r"messages\[1\]: role 'system' has no place there"):
        write([Message(role="user", parts=(Text("a"),)), Message(role="system", parts=(Text("b"),))])
