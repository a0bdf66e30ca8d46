"""`polymodal serve`: what it refuses before it listens, and a server of its own process until SIGTERM."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from headline_folders import captured
from polymodal.cli.server import read_keys, served, settings
from polymodal.errors import ConfigError

KEY = "a key that nobody will guess"


def chosen(host: str = "127.0.0.1", key_file: Path | None = None, without_key: bool = False):
    return settings(host, key_file, without_key, [], [], 4, 100)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_a_key(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        chosen(host)
    (tmp_path / "keys").write_text(KEY)
    assert chosen(host, tmp_path / "keys").api_keys and not chosen(host, tmp_path / "keys").hosts
    assert not chosen(host, without_key=True).api_keys


def test_this_machine_answers_to_its_own_names_alone() -> None:
    assert chosen().hosts == {"127.0.0.1", "localhost", "::1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "holds no key"), ("# none\n\n", "holds no key"), ("short", "16 or more"), ("sha256:12", "64 hexadecimal")],
)
def test_key_files_are_read_with_care(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_keys(tmp_path / "keys")
    with pytest.raises(ConfigError, match="there is no file"):
        read_keys(tmp_path / "nothing")


def test_a_key_is_kept_as_its_hash(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# ours\n{KEY}\n")
    (found,) = read_keys(tmp_path / "keys")
    assert KEY not in found
    (tmp_path / "hashed").write_text(f"sha256:{found.upper()}\n")
    assert read_keys(tmp_path / "hashed") == {found}


def ask(address: str, path: str, body=None, key: str = KEY) -> tuple[int, dict]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as problem:
        return problem.code, json.loads(problem.read())


def stream(address: str, body):
    """The lines of a streamed answer, as they come."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps({**body, "stream": True}).encode(), headers
    )
    return urllib.request.urlopen(request, timeout=60)


def test_a_server_answers_and_ends_what_runs_after_sigterm(tmp_path: Path) -> None:
    folder = captured("llava_1_5", tmp_path / "llava")
    (tmp_path / "keys").write_text(KEY)
    command = ["serve", str(folder), "--port", "0", "--api-key-file", str(tmp_path / "keys")]
    server = subprocess.Popen(
        [sys.executable, "-m", "polymodal", *command], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        lines = []
        while not (lines and "serving" in lines[-1]):
            lines.append(server.stderr.readline())
            assert lines[-1], lines
        address = re.search(r"http://[\d.:]+", lines[-1])[0]
        assert ask(address, "/v1/models", key="wrong")[0] == 401
        body = {"model": str(folder), "messages": [{"role": "user", "content": "hello"}], "max_tokens": 300}
        found, streamed = [], []
        running = threading.Thread(target=lambda: found.append(ask(address, "/v1/chat/completions", body)))
        running.start()
        with stream(address, body) as lines_of_stream:
            streamed.append(next(lines_of_stream))  # it has begun
            server.send_signal(signal.SIGTERM)
            streamed += lines_of_stream
        running.join(60)
        assert found[0][0] == 200 and found[0][1]["choices"][0]["message"]["content"]
        assert streamed[-2:] == [b"data: [DONE]\n", b"\n"] and len(streamed) > 100
        with pytest.raises(OSError):
            ask(address, "/health")
        assert server.wait(60) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()
        server.wait()


def test_what_no_route_asks_is_refused_at_the_start(polymodal) -> None:
    outcome = polymodal("serve", "visual-chatgpt", "--port", "0")
    assert outcome.code == 2 and "visual-chatgpt:tools cannot be served: the server offers chat" in outcome.err
    assert "`polymodal chat` begins a conversation with it" in outcome.err


def test_a_model_that_can_do_nothing_by_itself_is_named() -> None:
    class Bare:
        name, can = "mini:bare", ()

    with pytest.raises(ConfigError, match=r"mini:bare cannot be served.*it can do nothing by itself"):
        served(Bare())


def test_a_port_that_is_taken_is_named(polymodal, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = polymodal("serve", "--port", str(taken.getsockname()[1]))
    assert outcome.code == 2 and "try another --port" in outcome.err
