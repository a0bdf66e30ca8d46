"""Servers on this machine that answer with any bytes whatever, and a hub that is honest unless an answer is changed."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Call:
    """A request as it arrived: which server, method, path, headers in small letters."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """status, headers as a list (a name may stand twice), body; `raw` is sent instead of all that where it is given."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    raw: Iterable[bytes] | None = None

    def changed(self, **headers: str | None) -> "Answer":
        """Headers set anew, or dropped with None; "_" in a name stands for "-"."""
        names = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        kept = [(name, value) for name, value in self.headers if name.lower() not in names]
        return replace(self, headers=(*kept, *((name, value) for name, value in names.items() if value is not None)))

    def pieces(self, head: bool) -> Iterable[bytes]:
        if self.raw is not None:
            return self.raw
        named = {name.lower() for name, _ in self.headers}
        length = (
            ()
            if "content-length" in named or "transfer-encoding" in named
            else (("Content-Length", str(len(self.body))),)
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*self.headers, *length))
        start = f"HTTP/1.1 {self.status} X\r\n{lines}Connection: close\r\n\r\n".encode("utf-8", "surrogateescape")
        return (start,) if head else (start, self.body)


class Server:
    """Answers every call by a function; keeps the calls."""

    def __init__(self, name: str, host: str, answer: Callable[[Call], Answer]) -> None:
        self.name, self.answer, self.calls = name, answer, []  # type: ignore[var-annotated]
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"http://{host}:{self.socket.getsockname()[1]}"
        self.closed = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.closed:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, suppress(OSError, ValueError):
            client.settimeout(20)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = b""
            while b"\r\n\r\n" not in asked and (block := client.recv(65536)):
                asked += block
            first, *lines = asked.decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ", 2)
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
            }
            call = Call(self.name, method, path, headers)
            self.calls.append(call)
            for piece in self.answer(call).pieces(method == "HEAD"):
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)

    def close(self) -> None:
        self.closed = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def dripping(start: bytes, piece: bytes, pause: float, seconds: float = 20.0) -> Iterator[bytes]:
    """`start`, then `piece` after each pause, for a while."""
    end = time.monotonic() + seconds
    yield start
    while time.monotonic() < end:
        time.sleep(pause)
        yield piece


def git_hash(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@dataclass
class Hub:
    """A hub, its store of large files on another host, and a third server that has no part in it."""

    files: dict[str, bytes]
    change: Callable[[Call, Answer], Answer] = lambda _, answer: answer
    commit: str = COMMIT
    name: str = "lab/tiny"
    calls: list[Call] = field(default_factory=list)
    servers: dict[str, Server] = field(default_factory=dict)

    def __getitem__(self, server: str) -> str:
        return self.servers[server].address

    @property
    def seen(self) -> list[Call]:
        return [call for server in self.servers.values() for call in server.calls]

    def forget(self) -> None:
        for server in self.servers.values():
            server.calls.clear()

    def answer(self, call: Call) -> Answer:
        return self.change(call, self.honest(call))

    def honest(self, call: Call) -> Answer:
        if call.server == "other":
            return Answer(404)
        if call.server == "store":
            return self.stored(call)
        if call.path.startswith(f"/api/models/{self.name}/revision/"):
            listing = {"sha": self.commit, "siblings": [{"rfilename": name} for name in self.files]}
            return Answer(200, (("Content-Type", "application/json"),), json.dumps(listing).encode())
        _, found, rest = call.path.partition(f"/{self.name}/resolve/")
        body = self.files.get(rest.partition("/")[2])
        if not found or body is None:
            return Answer(404, (("X-Error-Code", "EntryNotFound" if found else "RepoNotFound"),))
        headers: tuple[tuple[str, str], ...] = (("X-Repo-Commit", self.commit),)
        if rest.endswith((".safetensors", ".bin")):
            digest = hashlib.sha256(body).hexdigest()
            headers += (("Location", f"{self['store']}/{rest.partition('/')[2]}"), ("ETag", '"pointer"'))
            return Answer(302, (*headers, ("X-Linked-Etag", f'"{digest}"'), ("X-Linked-Size", str(len(body)))))
        return Answer(200, (*headers, ("ETag", f'"{git_hash(body)}"')), body)

    def stored(self, call: Call) -> Answer:
        body = self.files.get(call.path[1:])
        if body is None:
            return Answer(404)
        first = int(call.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if not first:
            return Answer(200, (("ETag", '"x"'),), body)
        span = (("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}"), ("ETag", '"x"'))
        return Answer(206, span, body[first:])


@contextmanager
def false_hub(files: dict[str, bytes], **options: Any) -> Iterator[Hub]:
    """The three servers, running."""
    hub = Hub(files, **options)
    for name, host in (("hub", "127.0.0.1"), ("store", "localhost"), ("other", "127.0.0.1")):
        hub.servers[name] = Server(name, host, hub.answer)
    try:
        yield hub
    finally:
        for server in hub.servers.values():
            server.close()
