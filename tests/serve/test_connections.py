"""Connections that do harm by waiting: heads, bodies and readers that are slow, too many lines, too much at once."""

import hashlib
import json
import socket
import threading
import time
from dataclasses import replace

import pytest

from polymodal.serve.app import create_app
from polymodal.serve.connections import MAX_HEAD
from polymodal.serve.models import ServedModel
from polymodal.serve.settings import RequestLimits
from served import SETTINGS, call, error_of, running

ORIGIN = "https://pages.example"


def served_with(llava, **changes):
    settings = replace(SETTINGS, **changes)
    return running(create_app({"llava": ServedModel("llava", llava, settings)}, settings), settings)


def line_to(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)))
    line.settimeout(10)
    return line


def all_of(line: socket.socket) -> bytes:
    """What comes until the other side hangs up."""
    found = b""
    while block := line.recv(65536):
        found += block
    return found


def talk(**more):
    return {"model": "llava", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **more}


def test_a_head_that_does_not_come_is_not_waited_for(llava) -> None:
    with served_with(llava, head_seconds=0.5) as address:
        silent, slow, again = line_to(address), line_to(address), line_to(address)
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        again.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        found = b""
        while not found.endswith(b'{"status":"ok"}'):
            found += again.recv(65536)
        again.sendall(b"GET /hea")  # the next request of the same connection
        for _ in range(3):  # a byte now and then is no head
            slow.sendall(b"X")
            time.sleep(0.1)
        assert [all_of(each) for each in (silent, slow, again)] == [b""] * 3
        assert call(address, "/health")[0] == 200


def test_an_answer_that_takes_long_is_not_cut_off(llava, monkeypatch) -> None:
    step = llava.module.backbone.forward
    monkeypatch.setattr(llava.module.backbone, "forward", lambda *a, **k: (time.sleep(0.3), step(*a, **k))[1])
    with served_with(llava, head_seconds=0.2) as address:
        assert call(address, "/v1/chat/completions", talk())[0] == 200


def test_heads_are_bounded(served) -> None:
    with line_to(served[0]) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * (MAX_HEAD + 1000))
        assert all_of(line).startswith(b"HTTP/1.1 400 ")


def test_more_connections_than_there_may_be_are_told_so(llava) -> None:
    with served_with(llava, connections=3) as address:
        lines = [line_to(address) for _ in range(3)]
        time.sleep(0.2)
        with line_to(address) as one_more:
            head, body = all_of(one_more).split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and "too many connections" in json.loads(body)["error"]["message"]
        for line in lines:
            line.close()
        time.sleep(0.2)
        assert call(address, "/health")[0] == 200


def test_a_body_that_does_not_come_is_408(llava) -> None:
    with (
        served_with(llava, requests=RequestLimits(body_seconds=0.5)) as address,
        line_to(address) as line,
    ):
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        line.sendall(b'Content-Length: 100\r\n\r\n{"model"')
        head, body = all_of(line).split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and "0.5 s" in json.loads(body)["error"]["message"]


def test_all_bodies_together_are_bounded(llava) -> None:
    with served_with(llava, bodies=300_000) as address:
        assert call(address, "/v1/chat/completions", talk(user="x" * 200_000))[0] == 200
        assert call(address, "/v1/chat/completions", talk(user="x" * 200_000))[0] == 200, "the first was let go"
        status, found = call(address, "/v1/chat/completions", talk(user="x" * 400_000))
        assert status == 503 and "too many large requests" in found["error"]["message"]
        assert call(address, "/v1/chat/completions", talk())[0] == 200


def test_a_reader_that_does_not_read_is_let_go(llava, caplog) -> None:
    """An answer that nobody fetches ends, and frees its rows and its connection."""
    model = ServedModel("llava", llava, SETTINGS)
    settings = replace(SETTINGS, requests=RequestLimits(max_tokens=400, body_seconds=0.5))
    with running(create_app({"llava": model}, settings), settings) as address, line_to(address) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(talk(stream=True, logprobs=True, top_logprobs=20, n=8) | {"max_tokens": 400}).encode()
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        deadline = time.monotonic() + 60
        while not model.engines or any(engine.busy for engine in model.engines):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while "did not fetch its answer" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert call(address, "/v1/chat/completions", talk())[0] == 200


def test_pages_that_are_allowed_may_read_answers(llava) -> None:
    keys = frozenset({hashlib.sha256(b"a key of many letters").hexdigest()})

    def ask(line: socket.socket, origin: str, method: str = "GET", extra: str = "") -> bytes:
        head = (
            f"{method} /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: {origin}\r\nConnection: close\r\n{extra}\r\n"
        )
        line.sendall(head.encode())
        return all_of(line).lower()

    with served_with(llava, origins=(ORIGIN,), api_keys=keys) as address:
        allowed = f"access-control-allow-origin: {ORIGIN}".encode()
        before = ask(line_to(address), ORIGIN, "OPTIONS")  # a browser asks so before it sends the key
        assert before.startswith(b"http/1.1 204") and allowed in before and b"authorization" in before
        assert allowed in ask(line_to(address), ORIGIN)  # so that the page can read that the key is wrong
        found = ask(line_to(address), ORIGIN, extra="Authorization: Bearer a key of many letters\r\n")
        assert found.startswith(b"http/1.1 200") and allowed in found
        for other in ("https://evil.example", "http://[", "https://pages.example.evil.example"):
            found = ask(line_to(address), other, "OPTIONS")
            assert found.startswith(b"http/1.1 403") and b"access-control" not in found


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_an_answer_as_its_length(llava, monkeypatch, stream: bool) -> None:
    step = llava.module.backbone.forward
    monkeypatch.setattr(llava.module.backbone, "forward", lambda *a, **k: (time.sleep(0.1), step(*a, **k))[1])
    with served_with(llava, requests=RequestLimits(seconds=1.0)) as address:
        status, found = call(address, "/v1/chat/completions", talk(stream=stream) | {"max_tokens": 300})
        assert status == 200
        if stream:
            events = [json.loads(line[6:]) for line in found.split("\n\n") if line.startswith("data: {")]
            assert events[-1]["choices"][0]["finish_reason"] == "length" and found.endswith("data: [DONE]\n\n")
        else:
            assert found["choices"][0]["finish_reason"] == "length" and found["usage"]["completion_tokens"] < 20


def test_a_hundred_clients_lose_no_reply(served) -> None:
    found = []

    def client(number: int) -> None:
        given = talk(stream=bool(number % 2)) | {"max_tokens": 1 + number % 6}
        found.append((number, *call(served[0], "/v1/chat/completions", given)))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 100 and {status for _, status, _ in found} == {200}
    assert all(text.endswith("data: [DONE]\n\n") for number, _, text in found if number % 2)
    assert all(body["usage"]["completion_tokens"] for number, _, body in found if not number % 2)


def test_numbers_that_would_overflow_are_refused(served) -> None:
    for given in ({"temperature": 1e308}, {"repetition_penalty": 1e-300}, {"logit_bias": {"3": 1e308}}):
        assert next(iter(given)) in error_of(call(served[0], "/v1/chat/completions", talk(**given)))
    body = b'{"model": "llava", "messages": [{"role": "user", "content": "\\ud800"}]}'
    assert "UTF-8" in error_of(call(served[0], "/v1/chat/completions", body))
    broken = [{"type": "function", "function": {"name": "a", "arguments": "{"}}]
    turns = [{"role": "assistant", "content": None, "tool_calls": broken}, {"role": "user", "content": "x"}]
    assert "arguments" in error_of(call(served[0], "/v1/chat/completions", talk() | {"messages": turns}))
