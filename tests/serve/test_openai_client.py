"""The server as OpenAI's own client uses it: answers equal the model's, whole and streamed, alone and in company."""

import asyncio
import base64
from pathlib import Path

import openai
import pytest

import polymodal as pm
from polymodal.generation.logit_rules import LogitRules

CAT = Path("examples/cat.jpg")
URL = "data:image/jpeg;base64," + base64.b64encode(CAT.read_bytes()).decode()
PICTURE = {"type": "image_url", "image_url": {"url": URL}}


@pytest.fixture
def client(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0)


def asked(*content):
    return [{"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}]


def test_models_say_what_they_take(client) -> None:
    found = {model.id: model for model in client.models.list()}
    assert set(found) == {"llava", "clip"}
    assert "image" in found["llava"].inputs and "chat" in found["llava"].can and "embed" in found["clip"].can
    assert client.models.retrieve("clip").id == "clip"


def test_an_answer_is_the_model_s_own(client, llava) -> None:
    answer = client.chat.completions.create(model="llava", messages=asked(PICTURE, "What is this?"), max_tokens=20)
    own = llava.chat(pm.image(CAT), "What is this?", max_tokens=20)
    assert answer.choices[0].message.content == own.text
    assert answer.usage.completion_tokens == own.tokens["generated"]
    assert answer.usage.prompt_tokens == own.tokens["text"] + own.tokens["image"]
    assert answer.choices[0].finish_reason == own.finish_reason


def test_a_stream_gives_the_same_pieces(client) -> None:
    given = {"model": "llava", "messages": asked(PICTURE, "Describe it."), "max_tokens": 24}
    whole = client.chat.completions.create(**given)
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert len({c.id for c in chunks}) == 1


def test_options_are_followed(client, llava) -> None:
    given = {"model": "llava", "messages": asked("Tell me."), "max_tokens": 12}
    several = client.chat.completions.create(**given, n=3, temperature=1.0, seed=5)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2] and len(set(texts)) > 1
    assert texts == [llava.chat("Tell me.", max_tokens=12, temperature=1.0, seed=5 + k).text for k in range(3)]
    scored = client.chat.completions.create(**given, logprobs=True, top_logprobs=2).choices[0]
    own = llava.chat("Tell me.", max_tokens=12, logprobs=2)
    assert [each.logprob for each in scored.logprobs.content] == pytest.approx(own.logprobs, abs=1e-4)
    assert all(len(each.top_logprobs) == 2 for each in scored.logprobs.content)
    plain = scored.message.content
    stop = plain[2:5]
    assert client.chat.completions.create(**given, stop=[stop]).choices[0].message.content == plain[: plain.index(stop)]
    written = llava.stream("Tell me.", max_tokens=12)
    list(written)
    bias = {str(index): -100 for index in set(written.ids)}
    other = client.chat.completions.create(**given, logit_bias=bias).choices[0].message.content
    rules = LogitRules(sequence_bias=tuple(((index,), -100.0) for index in set(written.ids)))
    assert other == llava.chat("Tell me.", max_tokens=12, rules=rules).text != plain
    assert client.chat.completions.create(**given, max_completion_tokens=2).usage.completion_tokens == 2


def test_beams(client, llava) -> None:
    talk = {"model": "llava", "messages": [{"role": "user", "content": "tell me a b c"}], "max_tokens": 6}
    extra = {"num_beams": 3, "length_penalty": 0.5}
    found = client.chat.completions.create(**talk, n=2, extra_body=extra)
    expected = llava.chat("tell me a b c", max_tokens=6, beams=3, length_penalty=0.5, stop_loops=0)
    assert found.choices[0].message.content == expected.text and len(found.choices) == 2
    pieces = client.chat.completions.create(**talk, stream=True, extra_body=extra)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected.text
    for wrong, words in (
        ({"num_beams": 9}, "num_beams: expected 1 to 8, found 9"),
        ({"num_beams": 2, "logprobs": True}, "beams above 1 goes without logprobs"),
        ({"num_beams": 2, "response_format": {"type": "json_object"}}, "beam search takes no rule"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            client.chat.completions.create(**talk, extra_body=wrong)
    with pytest.raises(openai.BadRequestError, match="2 beams find at most that many answers, 3 are asked for"):
        client.chat.completions.create(**talk, n=3, extra_body={"num_beams": 2})


def test_turns_and_roles(client, llava) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        *asked(PICTURE, "What is this?"),
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Why?"},
    ]
    answer = client.chat.completions.create(model="llava", messages=messages, max_tokens=10)
    own = llava.chat(
        [messages[0], {"role": "user", "content": [pm.image(CAT), "What is this?"]}, *messages[2:]], max_tokens=10
    )
    assert answer.choices[0].message.content == own.text


def test_texts_are_continued(client, llava) -> None:
    found = client.completions.create(model="llava", prompt=["a b c", "d"], max_tokens=5, n=2, temperature=1.0, seed=1)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3] and found.usage.completion_tokens <= 20
    again = client.completions.create(model="llava", prompt="d", max_tokens=5, n=2, temperature=1.0, seed=1, logprobs=1)
    assert [choice.text for choice in again.choices] == [choice.text for choice in found.choices[2:]]
    assert len(again.choices[0].logprobs.tokens) == len(again.choices[0].logprobs.token_logprobs)
    pieces = client.completions.create(model="llava", prompt="d", max_tokens=5, temperature=1.0, seed=1, stream=True)
    assert "".join(each.choices[0].text for each in pieces) == again.choices[0].text


def test_vectors(client, clip) -> None:
    found = client.embeddings.create(model="clip", input=["a cat", "a dog"])  # the client asks for base64
    own = clip.embed([pm.text("a cat"), pm.text("a dog")])
    assert [each.embedding for each in found.data] == [pytest.approx(row, abs=1e-6) for row in own.tolist()]
    assert found.usage.prompt_tokens > 2
    picture = client.embeddings.create(model="clip", input=[PICTURE], encoding_format="float")
    assert picture.data[0].embedding == pytest.approx(clip.embed([pm.image(CAT)])[0].tolist(), abs=1e-6)


def test_many_at_once_answer_as_alone(served) -> None:
    """Sixteen clients, pictures and texts, streamed: nothing is lost or mixed up."""
    words = [f"word {'more ' * (index % 5)}{index % 4}?" for index in range(16)]

    async def one(client: openai.AsyncOpenAI, index: int) -> str:
        content = [*([PICTURE] if index % 2 else []), {"type": "text", "text": words[index]}]
        stream = await client.chat.completions.create(
            model="llava", messages=[{"role": "user", "content": content}], max_tokens=8 + index, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def everything(together: bool) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as client:
            if together:
                return list(await asyncio.gather(*(one(client, index) for index in range(16))))
            return [await one(client, index) for index in range(16)]

    together = asyncio.run(everything(True))
    served[1]["llava"].model.clear_caches()
    assert together == asyncio.run(everything(False))
    assert all(together)
