"""URLs in messages: nothing but https to an allowed host with public addresses is ever connected to."""

import http.client
import http.server
import threading
import time
from contextlib import contextmanager

import pytest

from polymodal.serve import remote
from polymodal.serve.errors import Refused
from polymodal.serve.remote import check, fetch, public_address

ALLOWED = frozenset({"media.example.org"})
URLS = """
http://media.example.org/a.png
ftp://media.example.org/a.png
file:///etc/passwd
file://media.example.org/etc/passwd
gopher://media.example.org/1
dict://media.example.org:11211/
data:text/html,x
javascript:alert(1)
//media.example.org/a.png
media.example.org/a.png
https://
https:///a.png
https:media.example.org
https://127.0.0.1/
https://127.1/
https://0/
https://0.0.0.0/
https://2130706433/
https://0x7f000001/
https://0x7f.1/
https://017700000001/
https://0177.0.0.1/
https://127.0.0.1.nip.io/
https://localhost/
https://localhost.localdomain/
https://[::1]/
https://[::]/
https://[::ffff:127.0.0.1]/
https://[::ffff:7f00:1]/
https://[fe80::1%25eth0]/
https://[fd00::1]/
https://[64:ff9b::7f00:1]/
https://[2002:7f00:1::]/
https://10.0.0.1/
https://172.16.0.1/
https://192.168.0.1/
https://169.254.169.254/latest/meta-data/
https://[fd00:ec2::254]/
https://100.100.100.200/
https://metadata.google.internal/
https://198.18.0.1/
https://224.0.0.1/
https://255.255.255.255/
https://evil.example/
https://media.example.org.evil.example/
https://evil.example/media.example.org
https://evil.example#media.example.org
https://evil.example?media.example.org
https://media.example.org@evil.example/
https://user@media.example.org/
https://user:word@media.example.org/
https://@media.example.org/
https://evil.example\\@media.example.org/
https://media.example.org\\.evil.example/
https://media.example.org:22/
https://media.example.org:8443/
https://media.example.org:443x/
https://media.example.org:99999/
https://media.example.org%2eevil.example/
https://media.example.org%00.evil.example/
https://media。example。org/
https://ⓜedia.example.org/
https://media.example.org/ a
https://media.example.org/\ta
https://media.example.org./
https://-media.example.org/
https://xn--e1afmkfd.example/
https://media.example.org,evil.example/
https://[media.example.org]/
""".strip("\n").split("\n")


class Trap:
    """Where nothing may ever connect to."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    def __call__(self, host: str, address: str) -> http.client.HTTPConnection:
        self.connected.append(address)
        raise OSError("connected")


def test_the_table_is_long_enough() -> None:
    assert len(set(URLS)) >= 60


@pytest.mark.parametrize(
    "url", [*URLS, "https://media.example.org/" + "a" * 5000, "https://media.example.org/\r\nX: y"]
)
def test_no_other_url_is_connected_to(url: str) -> None:
    trap = Trap()
    with pytest.raises(Refused) as refusal:
        fetch(url, ALLOWED, 1000, lookup=lambda host: ["93.184.216.34"], connect=trap)
    assert refusal.value.status == 400 and not trap.connected


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["192.168.1.1"],
        ["172.31.0.1"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["224.0.0.251"],
        ["240.0.0.1"],
        ["::1"],
        ["::"],
        ["fe80::1%eth0"],
        ["fc00::1"],
        ["ff02::1"],
        ["::ffff:127.0.0.1"],
        ["::ffff:10.0.0.1"],
        ["2002:7f00:1::"],
        ["93.184.216.34", "127.0.0.1"],
        [],
    ],
)
def test_a_name_with_an_address_that_is_not_public_is_not_connected_to(addresses: list[str]) -> None:
    trap = Trap()
    with pytest.raises(Refused):
        fetch("https://media.example.org/a.png", ALLOWED, 1000, lookup=lambda host: addresses, connect=trap)
    assert not trap.connected


def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """A name that points elsewhere at its second look-up (rebinding) is looked up once."""
    answers, trap = [["93.184.216.34"], ["127.0.0.1"]], Trap()
    with pytest.raises(Refused, match="cannot be read"):
        fetch(
            "https://media.example.org/a", ALLOWED, 1000, lookup=lambda host: answers.pop(0), connect=trap_request(trap)
        )
    assert trap.connected == ["93.184.216.34"] and len(answers) == 1


def trap_request(trap: Trap):
    class Connection(http.client.HTTPConnection):
        def __init__(self, host: str, address: str) -> None:
            super().__init__(host)
            trap.connected.append(address)

        def connect(self) -> None:
            raise OSError("no network")

    return Connection


@contextmanager
def site(answer):
    """A local site whose GET is `answer(handler)`, reached in place of the allowed host."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # of a client that hung up
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield lambda host, address: http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=2)
    finally:
        server.shutdown()


def get(connect, path: str = "/a.png", most: int = 1000) -> bytes:
    return fetch(
        f"https://media.example.org{path}", ALLOWED, most, lookup=lambda host: ["93.184.216.34"], connect=connect
    )


def send(handler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_what_is_allowed_is_fetched() -> None:
    asked = []

    def answer(handler) -> None:
        asked.append(handler.path)
        send(handler, b"x" * 1000, Content_Length="1000")

    with site(answer) as connect:
        assert get(connect, "/a.png?size=2") == b"x" * 1000
    assert asked == ["/a.png?size=2"]
    assert check("https://MEDIA.example.org:443/a", ALLOWED).hostname == "media.example.org"
    assert public_address("media.example.org", lambda host: ["93.184.216.34"]) == "93.184.216.34"


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1/", "https://169.254.169.254/", "https://evil.example/", "file:///etc/passwd", "//evil"],
)
def test_redirects_are_checked_like_the_first_url(location: str) -> None:
    with site(lambda handler: send(handler, b"", 302, Location=location)) as connect, pytest.raises(Refused):
        get(connect)


def test_redirects_end() -> None:
    with (
        site(lambda handler: send(handler, b"", 302, Location="/again")) as connect,
        pytest.raises(Refused, match="redirects"),
    ):
        get(connect)


def endless(handler) -> None:
    send(handler, b"")
    while True:
        handler.wfile.write(b"x" * 500)


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: send(handler, b"x" * 2000),
        lambda handler: send(handler, b"x", Content_Length="2000"),
        lambda handler: send(handler, b"x", Content_Length="9" * 40),
        endless,
    ],
)
def test_more_than_the_limit_is_413(answer) -> None:
    with site(answer) as connect, pytest.raises(Refused) as refusal:
        get(connect)
    assert refusal.value.status == 413


def test_a_drip_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(remote, "SECONDS", 0.5)

    def drip(handler) -> None:
        send(handler, b"")
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    begin = time.monotonic()
    with site(drip) as connect, pytest.raises(Refused, match=r"more than 0.5 s"):
        get(connect)
    assert time.monotonic() - begin < 1.5


def test_a_body_that_breaks_off_and_other_answers_are_refused() -> None:
    with site(lambda handler: send(handler, b"", 404)) as connect, pytest.raises(Refused, match="status 404"):
        get(connect)
    with site(lambda handler: handler.wfile.write(b"nonsense\r\n\r\n")) as connect, pytest.raises(Refused):
        get(connect)
