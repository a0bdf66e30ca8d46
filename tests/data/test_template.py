"""Messages and templates: what people write becomes typed records, and prompts equal the published format."""

import base64
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tiny_vocabulary import SPECIALS

import published_smollm2
from polymodal.data.media import Audio, Image, Text, Video
from polymodal.data.messages import Message, conversation, interleave, pictures_first, user, words_first
from polymodal.data.template import SMOLLM2, Slot, Special, Template, Turn, Words, chatml, written
from polymodal.errors import ConfigError, PromptError

# The chat template that the published SmolLM2 carries, as a test of its own stands below that this is so.
SMOLLM2_JINJA = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
texts = st.lists(st.one_of(st.text(max_size=20), st.sampled_from([*SPECIALS, "\n", " ", "{{ x }}"])), max_size=4)
turns = st.tuples(st.sampled_from(["system", "user", "assistant"]), texts.map("".join))
conversations = st.lists(turns, min_size=1, max_size=5)


def rendered(messages: list[dict], ask: bool) -> str:
    template = ImmutableSandboxedEnvironment(keep_trailing_newline=True).from_string(SMOLLM2_JINJA)
    return template.render(messages=messages, add_generation_prompt=ask)


@given(conversations, st.booleans())
@settings(max_examples=150, deadline=None)
def test_chatml_equals_the_published_jinja_template(turns: list, ask: bool) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    assert written(SMOLLM2.render(conversation(messages), ask=ask)) == rendered(messages, ask)


def test_the_template_above_is_the_one_in_the_weights() -> None:
    assert published_smollm2.opened().metadata["tokenizer.chat_template"] == SMOLLM2_JINJA


@given(conversations)
@settings(max_examples=100, deadline=None)
def test_learned_segments_are_exactly_the_assistant_turns(turns: list) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    segments = SMOLLM2.render(conversation(messages), ask=False)
    learned = [segment for segment in segments if not isinstance(segment, Slot) and segment.loss_mask]
    expected = "".join(text + "<|im_end|>" for role, text in turns if role == "assistant")
    assert written(learned) == expected
    for first, second in pairwise(segments):
        assert not (isinstance(first, Words) and isinstance(second, Words) and first.loss_mask == second.loss_mask)


def test_media_keep_their_place_in_the_order_written() -> None:
    picture, sound = Image("a.png"), Audio("b.wav")
    message = user("Compare ", picture, " with ", sound, " please")
    segments = SMOLLM2.render([message], ask=True)
    assert [s.media for s in segments if isinstance(s, Slot)] == [picture, sound]
    assert "user\nCompare <image> with <audio> please<|im_end|>\n<|im_start|>assistant\n" in written(segments)
    assert message.text == "Compare  with  please" and message.media == (picture, sound)


def test_models_that_learned_one_order_get_it() -> None:
    one, two, sound = Image(b"1"), Image(b"2"), Audio(b"3")
    messages = (user("Hear", sound, "and see", one, "or", two), user("Why?"))
    hear, see, either = map(Text, ("Hear", "and see", "or"))
    assert pictures_first(messages) == (user(one, two, hear, sound, see, either), messages[1])
    assert words_first(messages) == (user(hear, see, either, sound, one, two), messages[1])
    assert pictures_first(pictures_first(messages)) == pictures_first(messages)


def test_other_formats_are_other_data() -> None:
    end = (Special(name="<|im_end|>", loss_mask=True),)
    template = Template(
        turns={
            "user": Turn(before=(Words(text="USER: "),), after=(Words(text=" "),)),
            "assistant": Turn(after=end, loss_mask=True),
        },
        begin=(Special(name="<|endoftext|>"),),
        ask=(Words(text="ASSISTANT:"),),
    )
    segments = template.render(conversation("hello"), ask=True)
    assert segments == (Special(name="<|endoftext|>"), Words(text="USER: hello ASSISTANT:"))
    with pytest.raises(PromptError, match="no role 'system'; it knows user, assistant"):
        template.render(conversation([{"role": "system", "content": "x"}]), ask=False)
    with pytest.raises(PromptError, match="found none"):
        template.render([], ask=True)
    with pytest.raises(ConfigError, match="default_system"):
        Template(turns={}, default_system="x")
    assert (
        written(chatml(default_system=None).render(conversation("x"), ask=False)) == "<|im_start|>user\nx<|im_end|>\n"
    )


DATA = base64.b64encode(b"\x89PNG not really").decode()


def test_openai_parts_become_records() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
        {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{DATA}"}},
        {"type": "image", "image": "photo.jpg"},
        "and tell",
    ]
    (message,) = conversation([{"role": "user", "content": parts}])
    kinds = [type(part) for part in message.parts]
    assert kinds == [Text, Image, Audio, Video, Image, Text]
    assert message.parts[1].source == b"\x89PNG not really" and message.parts[4].source == "photo.jpg"
    assert conversation("hi") == (Message(role="user", parts=(Text("hi"),)),)
    assert conversation({"role": "assistant", "content": None})[0].parts == ()
    assert conversation(Image("a.png"))[0].media[0].source == "a.png"
    assert conversation([message]) == (message,)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "wizard", "content": "x"}], r"messages\[0\]: role 'wizard' .* system, user"),
        ([{"role": "user"}], "lacks 'content'"),
        ([{}], "lacks 'role' and 'content'"),
        ([{"role": "user", "content": "a"}, 7], r"messages\[1\]: expected a mapping"),
        ([], "at least one message"),
        (5, "found int"),
        ([{"role": "user", "content": [{"type": "hologram"}]}], r"messages\[0\].content\[0\]: part type 'hologram'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'text' should be a str"),
        ([{"role": "user", "content": [{"type": "image"}]}], "needs the key 'image'"),
        ([{"role": "user", "content": [{"type": "image", "image": Audio("x")}]}], "expected image, found audio"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}], "data:image"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}], "data:"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "found NoneType"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": f"data:audio/wav;base64,{DATA}"}]}],
            "expected image data, found audio",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,@@"}]}],
            "not valid base64",
        ),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "wav"}}]}], "'data' should"),
        ([{"role": "user", "content": [3.5]}], "found float"),
    ],
)
def test_wrong_messages_are_named(messages, words) -> None:
    with pytest.raises(PromptError, match=words):
        conversation(messages)


def test_a_stranger_may_not_name_files() -> None:
    messages = [{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]
    assert conversation(messages)[0].media[0].source == "/etc/passwd"
    with pytest.raises(PromptError, match="files of this machine"):
        conversation(messages, files=False)
    data = [{"role": "user", "content": [{"type": "image", "image": f"data:image/png;base64,{DATA}"}]}]
    assert conversation(data, files=False)[0].media[0].source.startswith(b"\x89PNG")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["user", "text", "image", "data:"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image", "image_url", "url"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_any_json_gives_records_or_a_prompt_error(value) -> None:
    try:
        messages = conversation(json.loads(json.dumps(value)), files=False)
    except PromptError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(message, Message) for message in messages)


@given(st.lists(st.text("abc \n", max_size=6), min_size=1, max_size=5))
def test_interleave_round_trip(pieces: list[str]) -> None:
    media = [Image(f"{i}.png") for i in range(len(pieces) - 1)]
    parts = interleave("<image>".join(pieces), media)
    assert "".join(part.text if isinstance(part, Text) else "<image>" for part in parts) == "<image>".join(pieces)
    assert [part for part in parts if isinstance(part, Image)] == media


def test_interleave_counts_markers() -> None:
    with pytest.raises(PromptError, match=re.escape("2 markers '<image>' for 1 media")):
        interleave("<image><image>", [Image("a")])
    with pytest.raises(PromptError, match="0 markers"):
        interleave("none", [Image("a")])
