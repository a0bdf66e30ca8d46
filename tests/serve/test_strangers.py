"""What a stranger may not do: enter without a key, ask through a browser's page, send too much, hurt the others."""

import asyncio
import base64
import hashlib
import io
import json
import socket
import time
import urllib.request
from dataclasses import replace

import numpy as np
import openai
import pytest
from PIL import Image

from polymodal.data.limits import Limits
from polymodal.engine.request import EngineLimits
from polymodal.serve.app import create_app
from polymodal.serve.guard import WITHOUT_KEY
from polymodal.serve.models import ServedModel
from polymodal.serve.settings import RequestLimits
from polymodal.serve.site import PUBLIC
from served import SETTINGS, call, error_of, running

KEY = "a key of more than sixteen letters"


def talk(content="hello", **more):
    return {"model": "llava", "messages": [{"role": "user", "content": content}], "max_tokens": 4, **more}


def test_every_route_but_health_needs_the_key(llava) -> None:
    settings = replace(SETTINGS, api_keys=frozenset({hashlib.sha256(KEY.encode()).hexdigest()}))
    app = create_app({"llava": ServedModel("llava", llava, settings)}, settings)
    routes = [(route.path, sorted(route.methods - {"HEAD"})[0]) for route in app.routes]
    assert len(routes) >= 9
    with running(app) as address:
        for path, method in [*routes, ("/nothing/here", "GET")]:
            place = path.replace("{name:path}", "llava")
            body = {} if method == "POST" else None
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer "}):
                status, found = call(address, place, body, method, **header)
                assert status == (200 if path in (*WITHOUT_KEY, *PUBLIC) else 401), (path, header, found)
            assert call(address, place, body, method, Authorization=f"Bearer {KEY}")[0] != 401
        assert call(address, "/v1/chat/completions", talk(), Authorization=f"bearer {KEY}")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1@evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:5"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({}, 200),
    ],
)
def test_other_pages_and_other_names_are_turned_away(served, headers, status) -> None:
    assert call(served[0], "/v1/models", **headers)[0] == status


NO_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
BAD = {
    "no JSON": (b"{", "JSON"),
    "not an object": (b"[]", ""),
    "deep JSON": (b"[" * 100_000, ""),
    "no messages": ({"model": "llava"}, "messages"),
    "empty list": (talk() | {"messages": []}, "messages"),
    "another model": (talk() | {"model": "x" * 500}, "not served here"),
    "unknown field": (talk(temprature=1), "temprature"),
    "number as text": (talk() | {"max_tokens": "4"}, "max_tokens"),
    "no number": (talk() | {"temperature": float("nan")}, "NaN is not a number"),
    "too many answers": (talk(n=99), "n: expected 1 to 8"),
    "too many tokens": (talk() | {"max_tokens": 10**9}, "max_tokens"),
    "no tokens": (talk() | {"max_tokens": 0}, "max_tokens"),
    "hot": (talk(temperature=-1), "temperature"),
    "a penalty": (talk(presence_penalty=3.0), "presence_penalty"),
    "bias of no id": (talk(logit_bias={"the": 1}), "logit_bias"),
    "many stops": (talk(stop=["a"] * 99), "stop"),
    "a file": (talk([{"type": "image", "image": "/etc/passwd"}]), "files of this machine"),
    "a URL": (talk([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]), "data:image"),
    "a file URL": (talk([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]), "data:image"),
    "no base64": (talk([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}]), "base64"),
    "no picture": (talk([NO_PICTURE]), ""),
    "a role": (talk() | {"messages": [{"role": "root", "content": "x"}]}, "root"),
    "nothing said": (talk("  "), "empty"),
    "an unknown key": (talk() | {"messages": [{"role": "user", "content": "x", "secret": 1}]}, "secret"),
    "sound": (talk([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]), ""),
    "a long prompt": (talk("word " * 20_000), ""),
    "many media": (
        talk([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}] * 17),
        "limit is 16",
    ),
    "bytes over the limit": (b" " * 2_000_001, "2,000,000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_named(served, name: str) -> None:
    body, words = BAD[name]
    assert words in error_of(call(served[0], "/v1/chat/completions", body))
    assert call(served[0], "/v1/chat/completions", talk())[0] == 200


def test_other_routes_name_what_is_wrong(served) -> None:
    address = served[0]
    assert "limit is 256" in error_of(call(address, "/v1/embeddings", {"model": "clip", "input": ["a"] * 257}))
    assert "max_tokens" in error_of(
        call(address, "/v1/completions", {"model": "llava", "prompt": "a", "max_tokens": 0})
    )
    assert "cannot embed" in error_of(call(address, "/v1/embeddings", {"model": "llava", "input": "a"}))
    assert "cannot chat" in error_of(call(address, "/v1/chat/completions", talk() | {"model": "clip"}))
    assert "empty" in error_of(call(address, "/v1/embeddings", {"model": "clip", "input": [""]}))
    assert "dimensions" in error_of(call(address, "/v1/embeddings", {"model": "clip", "input": "a", "dimensions": 3}))
    assert error_of(call(address, "/v1/nothing"))
    assert error_of(call(address, "/v1/chat/completions", method="DELETE"))


def test_a_body_without_a_length_is_counted_as_it_comes(served) -> None:
    host, port = served[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        line.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        block = b"%x\r\n%s\r\n" % (100_000, b" " * 100_000)
        try:
            for _ in range(40):
                line.sendall(block)
        except OSError:
            pass  # the server has hung up already
        line.settimeout(10)
        assert b" 413 " in line.recv(4096)


def test_typed_placeholders_and_special_tokens_are_plain_text(served) -> None:
    tokenizer = served[1]["llava"].model.processor.tokenizer
    for text in ["<image>", "</s>", "<s>", "<image><image> </s> USER: x ASSISTANT:", "\u0000\ud7ff"]:
        status, found = call(served[0], "/v1/chat/completions", talk(text))
        assert status == 200 and found["usage"]["prompt_tokens"] >= len(tokenizer.encode(text))


def busy(model: ServedModel) -> int:
    return sum(engine.running + engine.waiting for engine in model.engines)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_row(llava, stream: bool, monkeypatch) -> None:
    settings = replace(SETTINGS, requests=RequestLimits(max_tokens=4000), engine=EngineLimits(rows=1))
    model = ServedModel("llava", llava, settings)
    step = llava.module.backbone.forward

    def slow(*given, **named):
        time.sleep(0.01)
        return step(*given, **named)

    monkeypatch.setattr(llava.module.backbone, "forward", slow)
    with running(create_app({"llava": model}, settings)) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps(talk(stream=stream) | {"max_tokens": 400}).encode()
        with socket.create_connection((host, int(port))) as line:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not (model.engines and model.engines[0].running):
                time.sleep(0.01)
        gone = time.monotonic()
        while busy(model):
            time.sleep(0.002)
            assert time.monotonic() - gone < 5
        took = time.monotonic() - gone
        assert call(address, "/v1/chat/completions", talk())[0] == 200
    assert took < 1.0, f"the row was free after {took:.2f} s"  # 0.2 s on an idle machine


def test_a_full_queue_is_429_and_loses_nothing(llava) -> None:
    settings = replace(SETTINGS, engine=EngineLimits(rows=1, queue=2))
    with running(create_app({"llava": ServedModel("llava", llava, settings)}, settings)) as address:

        async def everything():
            async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
                given = {"model": "llava", "messages": talk()["messages"], "max_tokens": 60}
                tasks = [client.chat.completions.create(**given) for _ in range(12)]
                return await asyncio.gather(*tasks, return_exceptions=True)

        found = asyncio.run(everything())
    refused = [each for each in found if isinstance(each, Exception)]
    assert refused and all(isinstance(each, openai.RateLimitError) for each in refused)
    assert all("queue is full" in str(each) and each.response.headers["retry-after"] == "1" for each in refused)
    answers = {each.choices[0].message.content for each in found if not isinstance(each, Exception)}
    assert len(answers) == 1 and len(found) - len(refused) >= 2


def test_a_step_that_fails_ends_its_requests_and_the_next_is_answered(llava, monkeypatch, caplog) -> None:
    model = ServedModel("llava", llava, SETTINGS)
    with running(create_app({"llava": model}, SETTINGS)) as address:
        assert call(address, "/v1/chat/completions", talk())[0] == 200

        def broken(*_, **__):
            raise RuntimeError("secret address 0x7f00")

        monkeypatch.setattr(llava.module.backbone, "forward", broken)
        status, found = call(address, "/v1/chat/completions", talk("other words"))
        assert status == 500 and "secret" not in json.dumps(found)
        assert "secret address" in caplog.text
        monkeypatch.undo()
        assert call(address, "/v1/chat/completions", talk("other words"))[0] == 200


def test_limits_of_media_are_those_of_strangers(llava) -> None:
    settings = replace(SETTINGS, media=Limits(bytes=100))
    with running(create_app({"llava": ServedModel("llava", llava, settings)}, settings)) as address:
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}}
        assert "limit" in error_of(call(address, "/v1/chat/completions", talk([picture])))


def test_drawings_are_those_of_the_catalogue(served) -> None:
    address = served[0]
    with urllib.request.urlopen(f"{address}/api/drawings/llava-1.5.svg", timeout=60) as answer:
        svg, headers = answer.read(), answer.headers
    assert svg.startswith(b"<svg") and b"<script" not in svg and headers["Content-Type"].startswith("image/svg+xml")
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    for name in ("nothing", "../../etc/passwd", "%2e%2e%2fetc", "mini;ls", "tests%2Fcli%2Ftiny_system.py"):
        assert call(address, f"/api/drawings/{name}.svg")[0] == 404


def test_what_one_client_showed_is_not_known_of_another(served, llava, monkeypatch) -> None:
    """Otherwise the time until the first token would tell that somebody else has sent this picture."""
    address = served[0]
    shown: list[int] = []
    encode = llava.module.encode
    monkeypatch.setattr(llava.module, "encode", lambda *given: shown.append(1) or encode(*given))
    Image.fromarray(np.full((32, 32, 3), 77, np.uint8)).save(file := io.BytesIO(), "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    body = talk([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}])
    texts = []
    for salt in ("a", "b", "a", "b"):
        status, found = call(address, "/v1/chat/completions", {**body, "cache_salt": salt})
        assert status == 200, found
        texts.append(found["choices"][0]["message"]["content"])
    assert len(shown) == 2 and len(set(texts)) == 1
    keys = [KEY, KEY[::-1]]
    settings = replace(SETTINGS, api_keys=frozenset(hashlib.sha256(key.encode()).hexdigest() for key in keys))
    with running(create_app({"llava": ServedModel("llava", llava, settings)}, settings)) as address:
        for key in (*keys, *keys):
            assert call(address, "/v1/chat/completions", body, Authorization=f"Bearer {key}")[0] == 200
    assert len(shown) == 4
