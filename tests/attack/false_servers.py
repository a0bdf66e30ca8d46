"""What both files of attacks on downloads need: a canary tree, and limits that show in a part of a second."""

import os
import random
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raw_server import COMMIT, Answer

SECRET = "hf_do_not_tell"
LIMITS = (
    "page_bytes=200000,text_bytes=200000,file_bytes=2000000,package_bytes=2000000,member_bytes=2000000,"
    "unpacked_bytes=20000000,members=500,retry_after=0.2"
)
DRIPS = LIMITS + ",rate=20000,rate_seconds=0.3"
"""Small limits in the place of large ones, so that an input that would go on for ever is seen to be stopped at once."""


def canary(root: Path, cache: Path) -> dict[str, tuple[int, bytes]]:
    """Everything under a folder but the cache: path -> (mode, content)."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != cache]
        for name in (*folders, *files):
            path = Path(folder, name)
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(root))] = (path.lstat().st_mode, content)
    return found


def links_stay_inside(cache: Path) -> bool:
    """Whether every link in the cache leads to a file in it."""
    paths: Iterable[Path] = cache.rglob("*")
    return all(path.resolve().is_relative_to(cache.resolve()) for path in paths if path.is_symlink())


BITS = [
    "..",
    "/",
    "\\",
    "%2e%2e",
    "%00",
    "a" * 300,
    "\x1b[31m",
    "-1",
    "9" * 25,
    "é",
    '"',
    "W/",
    " ",
    ",",
    "0x10",
    "null",
    "{}",
    "://",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "//other/x",
    "bytes 0-1/2",
    "chunked",
    "gzip",
]
HEADERS = [
    "X-Repo-Commit",
    "ETag",
    "X-Linked-Etag",
    "X-Linked-Size",
    "Content-Length",
    "Content-Range",
    "Location",
    "Transfer-Encoding",
    "Content-Encoding",
    "Retry-After",
    "Content-Type",
    "X-Error-Code",
]


def noise(rng: random.Random, length: int = 40) -> str:
    words = [
        rng.choice([*BITS, rng.choice(string.ascii_letters), rng.choice(string.digits)])
        for _ in range(rng.randint(1, 6))
    ]
    return "".join(words)[: rng.choice([length, 400])]


def scrambled(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut, doubled or replaced."""
    kind, place = rng.randrange(6), rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + rng.randbytes(rng.randint(1, 30)) + data[place:]
    if kind == 2:
        return data + data[:place]
    if kind == 3 and data:
        return data[:place] + bytes(b ^ rng.randrange(256) for b in data[place : place + 5]) + data[place + 5 :]
    if kind == 4:
        return data.replace(
            rng.choice([b'"', b"config", b"json", COMMIT.encode(), b"0", b"lab"]), noise(rng).encode("utf-8", "replace")
        )
    return rng.randbytes(rng.randrange(200))


def mutated(rng: random.Random, servers: Any, answer: Answer) -> Answer:
    """One answer with up to three things wrong."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(9)
        name = rng.choice(HEADERS)
        clean = noise(rng).replace("\r", "").replace("\n", "")
        if kind == 0:
            answer = answer.changed(**{name: clean})
        elif kind == 1:
            answer = answer.changed(**{name: None})
        elif kind == 2:
            answer = Answer(
                rng.choice([200, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 416, 429, 500, 503, 999]),
                answer.headers,
                answer.body,
            )
        elif kind == 3:
            answer = Answer(answer.status, answer.headers, scrambled(rng, answer.body))
        elif kind == 4:
            place = rng.choice([servers["store"], servers["other"], servers["hub"], "", "//" + servers["other"][7:]])
            answer = Answer(302, answer.headers).changed(
                Location=place + "/" + clean, X_Repo_Commit=rng.choice([COMMIT, clean, None])
            )
        elif kind == 5:
            answer = Answer(answer.status, (*answer.headers, (name, clean)), answer.body)
        elif kind == 6:
            pieces = b"".join(answer.pieces(head=False))
            answer = Answer(raw=(scrambled(rng, pieces),))
            break
        elif kind == 7:
            answer = answer.changed(
                Retry_After=rng.choice(["0", "1", "99999999999", clean]), X_Linked_Size=str(rng.randint(0, 20_000))
            )
        else:
            value = rng.choice(["0" * 64, "0" * 40, "f" * 64])
            answer = answer.changed(ETag=f'"{value}"', X_Linked_Etag=rng.choice([f'"{value}"', None, clean]))
    return answer
