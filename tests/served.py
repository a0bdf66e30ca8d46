"""An application that is being served in a thread of this process, for tests."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from polymodal.serve.connections import configured
from polymodal.serve.settings import RequestLimits, Settings

SETTINGS = Settings(hosts=frozenset({"127.0.0.1"}), requests=RequestLimits(max_tokens=200, body=2_000_000), drain=5)


@contextmanager
def running(app, settings: Settings = SETTINGS) -> Iterator[str]:
    """The address of an application that is being served, as the command line serves it."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(configured(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def call(address: str, path: str, body=None, method: str | None = None, **headers: str):
    """(status, JSON) of a request; body: JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json", **names}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()
    except urllib.error.HTTPError as problem:
        return problem.code, json.loads(problem.read())


def error_of(found) -> str:
    """The message of an error in OpenAI's shape, one line without a trace or an address."""
    status, body = found
    assert 400 <= status < 500, found
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    message = body["error"]["message"]
    assert message and "\n" not in message and "Traceback" not in message and "0x" not in message
    return message


def complaint(message) -> list[str]:
    """What a browser's console complains of; that the server refused something is no complaint about the page."""
    ours = message.type == "error" and "Failed to load resource" not in message.text
    return [message.text] if ours else []
