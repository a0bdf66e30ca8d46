"""Several processes fetch one repository into one cache, and one is killed: the others end with the right bytes."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_server import Answer, Call, Hub, false_hub

from polymodal.weights.hub import fetch_repository
from polymodal.weights.hub_files import fetch_file
from polymodal.weights.source import Source
from polymodal.weights.verified import verify_cache

WEIGHTS = random.Random(0).randbytes(1 << 20)
FILES = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": WEIGHTS}
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("POLYMODAL_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nobody"))
    with false_hub(dict(FILES)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running["hub"])
        yield running


def slowly(call: Call, honest: Answer) -> Answer:
    """The weights in pieces, so that there is time to be killed in."""
    if not call.path.endswith("model.safetensors") or call.method == "HEAD":
        return honest

    def pieces() -> Iterator[bytes]:
        data = b"".join(honest.pieces(False))
        for first in range(0, len(data), 1 << 16):
            yield data[first : first + (1 << 16)]
            time.sleep(0.05)

    return Answer(raw=pieces())


def begun(cache: Path) -> bool:
    return any(part.stat().st_size > 1 << 17 for part in cache.rglob("*.part"))


@pytest.mark.parametrize("waiting", [0, 3])
def test_a_writer_that_is_killed_leaves_the_cache_usable(hub: Hub, tmp_path: Path, waiting: int) -> None:
    hub.change = slowly
    first = FORK.Process(target=fetch_repository, args=("lab/tiny", "main"))
    first.start()
    until = time.monotonic() + 30
    while not begun(tmp_path / "cache") and time.monotonic() < until:
        time.sleep(0.01)
    others = [FORK.Process(target=fetch_repository, args=("lab/tiny", "main")) for _ in range(waiting)]
    for other in others:
        other.start()
    time.sleep(0.2)
    assert first.pid is not None and first.is_alive() and begun(tmp_path / "cache")
    os.kill(first.pid, signal.SIGKILL)
    first.join(10)
    for other in others:
        other.join(30)
        assert other.exitcode == 0
    folder = fetch_repository("lab/tiny", "main")
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert verify_cache().changed == []
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith((".part", ".tmp"))]
    asked = [call for call in hub.seen if call.server == "store"]
    assert len(asked) == 2 and "range" in asked[1].headers  # who came next went on where it stopped


def test_who_comes_late_never_takes_a_file_away(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fetch of what is here leaves the link that others read through, and one of another blob is replaced."""
    source = Source(kind="hub", name="lab/tiny", revision="main", file="model.safetensors")
    path = fetch_file(source)
    taken: list[str] = []
    unlink, replace = Path.unlink, os.replace
    monkeypatch.setattr(Path, "unlink", lambda self, **more: taken.append(str(self)) or unlink(self, **more))
    monkeypatch.setattr(os, "replace", lambda old, new: taken.append(str(new)) or replace(old, new))
    assert fetch_file(source) == path and str(path) not in taken

    blob = path.resolve()
    unlink(path)
    path.symlink_to("../../blobs/another")
    assert fetch_file(source) == path and path.resolve() == blob
    assert taken.count(str(path)) == 1  # by one rename
