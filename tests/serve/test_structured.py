"""Answers of a given form, and calls of functions, with OpenAI's client: even a random model keeps the form."""

import asyncio
import json
import re

import openai
import pytest

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "additionalProperties": False}},
}
ASKED = [{"role": "user", "content": "What is it like?"}]


@pytest.fixture
def client(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0)


def text(client, **given) -> str:
    options = {"model": "llava", "messages": ASKED, "max_tokens": 150, "temperature": 1.0, "seed": 4, **given}
    return client.chat.completions.create(**options).choices[0].message.content


def test_json_fits_its_schema(client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}
    given = {"model": "llava", "messages": ASKED, "max_tokens": 150, "temperature": 1.0, "seed": 4, "n": 3}
    for choice in client.chat.completions.create(**given, response_format=form).choices:
        found = json.loads(choice.message.content)
        assert set(found) == {"name", "legs"} and 0 <= found["legs"] <= 9 and len(found["name"]) <= 5
        assert choice.finish_reason == "stop"


def test_other_forms(client) -> None:
    assert re.fullmatch("[a-c]{3}-[0-9]", text(client, extra_body={"structured_outputs": {"regex": "[a-c]{3}-[0-9]"}}))
    choice = ["yes", 'no "really"', "peut-être"]
    assert text(client, extra_body={"structured_outputs": {"choice": choice}}) in choice
    assert text(client, extra_body={"structured_outputs": {"grammar": 'start: "a" ("b" | "c")'}}) in ("ab", "ac")
    assert json.loads(text(client, extra_body={"structured_outputs": {"json": {"enum": [7]}}})) == 7
    found = client.completions.create(
        model="llava", prompt=["x", "y"], max_tokens=20, extra_body={"structured_outputs": {"choice": ["ja"]}}
    )
    assert [each.text for each in found.choices] == ["ja", "ja"]


def test_a_form_holds_for_its_own_request_alone(served) -> None:
    async def everything() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as client:

            async def one(form: str | None) -> str:
                extra = {} if form is None else {"structured_outputs": {"regex": form}}
                given = {"model": "llava", "messages": ASKED, "max_tokens": 12, "extra_body": extra}
                return (await client.chat.completions.create(**given)).choices[0].message.content

            return list(await asyncio.gather(*map(one, ["a{9}", None, "b{7}", None])))

    first, plain, second, again = asyncio.run(everything())
    assert (first, second) == ("a" * 9, "b" * 7) and plain == again and plain


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_be_made(client, choice) -> None:
    given = {"model": "llava", "messages": ASKED, "max_tokens": 150, "tools": [WEATHER, CLOCK], "tool_choice": choice}
    answer = client.chat.completions.create(**given, temperature=1.0, seed=2).choices[0]
    (call,) = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    assert call.function.name in ("weather", "clock")
    if isinstance(choice, dict):
        assert json.loads(call.function.arguments)["place"] in ("Rome", "Oslo")
    chunks = [c.choices[0] for c in client.chat.completions.create(**given, temperature=1.0, seed=2, stream=True)]
    streamed = next(chunk.delta.tool_calls[0] for chunk in chunks if chunk.delta.tool_calls)
    assert streamed.function.arguments == call.function.arguments and chunks[-1].finish_reason == "tool_calls"


def test_the_history_of_calls_is_read(client) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}]
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "user", "content": "And?"},
    ]
    given = {"model": "llava", "messages": messages, "max_tokens": 8, "tools": [WEATHER]}
    answer = client.chat.completions.create(**given)
    shorter = client.chat.completions.create(**{**given, "messages": ASKED})
    assert answer.usage.prompt_tokens > shorter.usage.prompt_tokens
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format: expected"),
        ({"response_format": {"type": "json_schema"}}, "response_format: expected"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}}, "not supported"),
        ({"extra_body": {"structured_outputs": {}}}, "name one form"),
        ({"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}}, "name one form"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "not supported"),
        ({"extra_body": {"structured_outputs": {"regex": "a" * 70_000}}}, "the limit is 65,536"),
        ({"extra_body": {"structured_outputs": {"choice": [""]}}}, "choice: expected"),
        ({"extra_body": {"structured_outputs": {"grammar": "start: nothing"}}}, "not supported"),
        ({"extra_body": {"structured_outputs": {"json": {"$ref": "http://127.0.0.1/x"}}}}, "not supported"),
        ({"tools": [{"type": "function", "function": {}}]}, "expected a function with a name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "expected a function with a name"),
        ({"tool_choice": "required"}, "names no function"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "not in tools"),
    ],
)
def test_forms_that_cannot_be_are_named(client, given, words) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(model="llava", messages=ASKED, max_tokens=4, **given)


@pytest.mark.parametrize("form", ["(((a{1000}){1000}){1000}){1000}", "(a?){5000}a{5000}", "(.*a){60}b", "(x+x+)+y"])
def test_forms_that_ask_for_endless_work_end(client, form) -> None:
    try:
        text(client, max_tokens=6, extra_body={"structured_outputs": {"regex": form}})
    except openai.BadRequestError as problem:
        assert "form of the answer" in str(problem)
    assert text(client, max_tokens=6)
