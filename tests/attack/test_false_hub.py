"""A hub that means harm: whatever it says, nothing is written outside the cache, no other host sees the token, nothing
goes on for ever, no file has another hash than was promised, and the next honest try succeeds."""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from false_servers import DRIPS, LIMITS, SECRET, canary, links_stay_inside, mutated
from raw_server import COMMIT, Answer, Call, Hub, dripping, false_hub

from polymodal.errors import WeightsError
from polymodal.weights import connection
from polymodal.weights.hub import fetch_repository
from polymodal.weights.verified import verify_cache

INDEX = json.dumps({"weight_map": {"w": "model.safetensors"}}).encode()
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": bytes(range(256)) * 40,
    "model.safetensors.index.json": INDEX,
    "vae/config.json": b"{}",
}
Change = Callable[[Call, Answer], Answer]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "world" / "deep" / "cache"))
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", LIMITS)
    monkeypatch.delenv("POLYMODAL_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nobody"))
    for folder in ("trash", "world/deep", "world/canary"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "world" / "canary" / "bird").write_text("sings")
    with false_hub(dict(FILES)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running["hub"])
        sleep = time.sleep
        # Pauses of our own between tries are left out; what a server asks for is waited, it is less.
        monkeypatch.setattr(connection.time, "sleep", lambda seconds: sleep(seconds) if seconds < 0.25 else None)
        yield running


def try_it(hub: Hub, tmp_path: Path, change: Change) -> None:
    """One try at a false hub, and where it was refused one at the honest hub; raises the refusal of the first."""
    root = tmp_path / "world"
    cache = root / "deep" / "cache"
    if cache.exists():  # to remove it would take longer than the try
        cache.rename(tmp_path / "trash" / str(len(os.listdir(tmp_path / "trash"))))
    before = canary(root, cache)
    hub.forget()
    hub.change, refusal = change, None
    try:
        folder = fetch_repository("lab/tiny", "main")
        for name in ("config.json", "model.safetensors"):
            assert (folder / name).resolve().is_relative_to(cache), name
    except WeightsError as error:
        refusal = error
    hub.change = lambda _, answer: answer
    assert canary(root, cache) == before, "something was written outside the cache"
    assert links_stay_inside(cache), "a link leads out of the cache"
    told = [call for call in hub.seen if call.server != "hub" and SECRET in str(call.headers)]
    assert not told, f"the token was sent to {told}"
    os.environ["POLYMODAL_NETWORK_LIMITS"] = LIMITS
    if refusal is not None:
        assert SECRET not in str(refusal)
        folder = fetch_repository("lab/tiny", "main")
        assert {name: (folder / name).read_bytes() for name in FILES} == FILES, "the next honest try gives other bytes"
        assert verify_cache().changed == []
        raise refusal


def always(**headers: str | None) -> Change:
    return lambda _, answer: answer.changed(**headers)


def on_file(end: str, answer: Callable[[Call, Answer], Answer]) -> Change:
    return lambda call, honest: answer(call, honest) if call.path.endswith(end) else honest


def listed(*names: object, sha: object = COMMIT) -> Change:
    siblings = [{"rfilename": name} for name in (*FILES, *names)]
    body = json.dumps({"sha": sha, "siblings": siblings}).encode()
    return lambda call, honest: Answer(200, (), body) if call.path.startswith("/api") else honest


def page(body: bytes) -> Change:
    return lambda call, honest: Answer(200, (), body) if call.path.startswith("/api") else honest


def raw(*pieces: bytes, end: str = "") -> Change:
    return on_file(end, lambda *_: Answer(raw=pieces))


def one_byte(call: Call) -> Answer:
    """One byte of 10,240, from where it is asked for."""
    first = int(call.headers.get("range", "bytes=0-")[6:-1])
    headers = (("Content-Range", f"bytes {first}-10239/10240"), ("Content-Length", str(10240 - first)))
    return Answer(206 if first else 200, headers, b"x")


OUT = [
    "../../../../canary/bird",
    "/tmp/polymodal-was-here",
    "..",
    ".",
    "a/../../../b",
    "a\\b",
    "a\0b",
    "~/x",
    "",
]
OK = b"HTTP/1.1 200 OK\r\n"
LFS = hashlib.sha256(FILES["model.safetensors"]).hexdigest()

REFUSED: dict[str, tuple[Change, str]] = {
    **{f"commit {out!r}": (always(X_Repo_Commit=out.replace("\0", "%00")), "commit") for out in OUT},
    "no commit": (always(X_Repo_Commit=None), "not that of a hub"),
    "another commit": (always(X_Repo_Commit="f" * 40), "was asked for"),
    "commit of 10,000 letters": (always(X_Repo_Commit="a" * 10_000), "commit"),
    **{
        f"listing with {out!r}": (
            listed(f"{out}.json" if out not in (".", "..") else f"{out}/x.json"),
            "no name inside",
        )
        for out in OUT
        if out not in ("", "~/x")
    },
    "listing with a number": (listed(5), "no listing"),
    "listing with a long name": (listed("a" * 300 + ".json"), "no name inside"),
    "listing with an escape": (listed("\x1b[31m.json"), "no name inside"),
    "listing with a file that is a folder too": (listed("config.json/a.json"), "config.json"),
    "listing of a commit elsewhere": (listed(sha="../../x"), "commit"),
    "listing of a commit that is none": (listed(sha=["a"]), "commit"),
    "listing of many files": (listed(*(f"{n}.json" for n in range(600))), "members"),
    "listing that nests": (page(b"[" * 50_000), "nests"),
    "listing that is no JSON": (page(b"<html>"), "damaged"),
    "listing of nothing": (page(b"{}"), "no listing"),
    "listing that is a list": (page(b"[]"), "no listing"),
    "listing without end": (page(b" " * 300_000), "page_bytes"),
    "other bytes than the ETag's sha256": (
        on_file("s", lambda c, a: a if c.server == "hub" else Answer(200, (), b"x" * 10_240)),
        "expected sha256",
    ),
    "other size than promised": (
        on_file(".safetensors", lambda c, a: a if c.server == "hub" else Answer(200, (), b"x")),
        "expected 10240 bytes, found 1",
    ),
    "other bytes than git's hash": (
        on_file("config.json", lambda c, a: a if c.method == "HEAD" else Answer(200, (), b"x" * len(a.body))),
        "expected git",
    ),
    "an announced size without measure": (always(X_Linked_Size="9" * 14), "file_bytes|text_bytes"),
    "a redirect to a file": (
        on_file(".safetensors", lambda c, a: Answer(302, (("Location", "file:///etc/passwd"),))),
        "no address",
    ),
    "a redirect to ftp": (on_file("main", lambda *_: Answer(302, (("Location", "ftp://127.0.0.1/x"),))), "no address"),
    "a redirect to data": (on_file("main", lambda *_: Answer(302, (("Location", "data:,{}"),))), "no address"),
    "a redirect to itself": (
        on_file("main", lambda c, a: Answer(302, (("Location", c.path),))),
        "redirects more than 10",
    ),
    "a redirect to nowhere": (on_file("main", lambda *_: Answer(302, (("Location", "http://[::1"),))), "no address"),
    "a redirect without a place": (on_file("main", lambda *_: Answer(302)), "answered 302"),
    "interim answers without end": (raw(*[b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 100), "without end"),
    "headers without end": (raw(OK, *[b"X: " + b"y" * 60_000 + b"\r\n"] * 90), "no answer|without end"),
    "ten thousand headers": (raw(OK, b"X: y\r\n" * 10_000), "no answer"),
    "no HTTP": (raw(b"\x1b[31mhello\r\n\r\n"), "no answer"),
    "nothing": (raw(), "no answer"),
    "a chunk of a negative size": (raw(OK, b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n"), "broke off"),
    "chunks that are none": (raw(OK, b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"), "broke off"),
    "chunks that break off": (raw(OK, b"Transfer-Encoding: chunked\r\n\r\nff\r\nhello"), "broke off"),
    "trailers without end": (
        raw(OK, b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", *[b"a: b\r\n" * 10_000] * 40),
        "without end|broke off",
    ),
    "a body that breaks off": (raw(OK, b"Content-Length: 900\r\n\r\n{"), "broke off"),
    "a page that drips": (
        on_file("main", lambda *_: Answer(raw=dripping(OK + b"\r\n", b" ", 0.02))),
        "NetworkLimits.rate",
    ),
    "headers that drip": (on_file("main", lambda *_: Answer(raw=dripping(OK, b"X", 0.02))), "NetworkLimits.rate"),
    "a file that drips": (
        on_file(
            ".safetensors",
            lambda c, a: (
                a if c.server == "hub" else Answer(raw=dripping(OK + b"Content-Length: 10240\r\n\r\n", b"x", 0.02))
            ),
        ),
        "NetworkLimits.rate",
    ),
    "a file without end": (
        on_file(
            ".safetensors",
            lambda c, a: (
                a.changed(X_Linked_Size=None, X_Linked_Etag="x")
                if c.server == "hub"
                else Answer(raw=(OK + b"\r\n", *[b"x" * 250_000] * 20))
            ),
        ),
        "file_bytes",
    ),
    "one byte for each try": (
        on_file(".safetensors", lambda c, a: a if c.server == "hub" else one_byte(c)),
        "stopped at",
    ),
    "ranges that lie": (
        on_file(
            ".safetensors",
            lambda c, a: a if c.server == "hub" else Answer(206, (("Content-Range", "bytes 5-9/10"),), b"x"),
        ),
        "no answer",
    ),
    "busy for an hour": (
        on_file("main", lambda *_: Answer(429, (("Retry-After", "3600"),))),
        r"3,600 s \(NetworkLimits.retry_after",
    ),
    "busy until a date": (
        on_file("main", lambda *_: Answer(503, (("Retry-After", "Fri, 31 Dec 2199 23:59:59 GMT"),))),
        "NetworkLimits.retry_after",
    ),
    "busy each time": (on_file("main", lambda *_: Answer(503, (("Retry-After", "0"),))), "status 503"),
    "an error in colours": (
        on_file("main", lambda *_: Answer(403, (("X-Error-Code", "\x1b[2J"), ("X-Error-Message", "\x1b[2J")))),
        "consent",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    change, words = REFUSED[name]
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", DRIPS if "rate" in words else LIMITS)
    with pytest.raises(WeightsError, match=words) as caught:
        try_it(hub, tmp_path, change)
    said = str(caught.value)
    assert "\n" not in said and said.isprintable() and len(said) < 600, said


HARMLESS: dict[str, Change] = {
    **{f"ETag {out!r}": always(ETag=out.replace("\0", "%00"), X_Linked_Etag=out.replace("\0", "%00")) for out in OUT},
    "ETag of 5,000 letters": always(ETag="a" * 5000, X_Linked_Etag="a" * 5000),
    "a size that is none": always(X_Linked_Size="²"),
    "a name that only looks odd": listed("..notes (1) é.txt") and always(),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(hub: Hub, tmp_path: Path, name: str) -> None:
    """An ETag that is no hash promises nothing and is no path."""
    try_it(hub, tmp_path, HARMLESS[name])
    assert fetch_repository("lab/tiny", "main", offline=True).name == COMMIT


@pytest.mark.parametrize("where", ["other", "store"])
def test_a_redirect_takes_no_token_along(hub: Hub, tmp_path: Path, where: str) -> None:
    def away(call: Call, answer: Answer) -> Answer:
        if call.server == "hub" and "/resolve/" in call.path:
            return Answer(307, (("Location", hub[where] + call.path),))
        moved = call.server == where and "/resolve/" in call.path
        return hub.honest(Call("hub", call.method, call.path, call.headers)) if moved else answer

    hub.change = away
    try_it(hub, tmp_path, away)
    assert {call.server for call in hub.seen} >= {"hub", where}


def test_a_redirect_within_the_endpoint_keeps_the_token(hub: Hub, tmp_path: Path) -> None:
    """A repository that was given another name is still private."""

    def renamed(call: Call, answer: Answer) -> Answer:
        if call.path.startswith("/lab/tiny/"):
            return Answer(307, (("Location", "/new" + call.path),))
        if call.path.startswith("/new/"):
            if call.headers.get("authorization") != f"Bearer {SECRET}":
                return Answer(401)
            return hub.honest(Call("hub", call.method, call.path.removeprefix("/new"), call.headers))
        return answer

    try_it(hub, tmp_path, renamed)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://hub.example", False),
        ("http://127.0.0.1.example", False),
        ("http://127.1.2.3", True),
        ("http://localhost", True),
    ],
)
def test_plain_http_sees_a_token_on_this_machine_only(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, told: bool
) -> None:
    import socket

    from huggingface_hub import constants

    connect = socket.create_connection
    port = int(hub["hub"].rpartition(":")[2])

    def to_the_hub(to: tuple[str, int], *rest: object, **options: object) -> socket.socket:
        return connect(("127.0.0.1", port if to[1] == 80 else to[1]), *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", to_the_hub)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    fetch_repository("lab/tiny", "main")
    assert {SECRET in str(call.headers) for call in hub.seen if call.server == "hub"} == {told}


def test_a_stored_token_with_line_breaks_is_not_shown(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}\x1b\r\nX: y")
    with pytest.raises(WeightsError, match="holds a character that no token has") as caught:
        fetch_repository("lab/tiny", "main")
    assert SECRET not in str(caught.value) and hub.seen == []


def test_answers_changed_at_random(hub: Hub, tmp_path: Path, attack: Any) -> None:
    """Each input: one, some or all answers of one try are changed; then an honest try."""
    for number, rng in attack.inputs(40):
        share, seed = rng.choice([0.15, 0.5, 1.0]), rng.random()

        def change(call: Call, answer: Answer, share: float = share, seed: float = seed) -> Answer:
            own = random.Random(f"{seed} {call.method} {call.path} {call.server}")
            return mutated(own, hub, answer) if own.random() < share else answer

        with attack.one(number, seconds=20):
            try_it(hub, tmp_path, change)
