"""Files and repositories of a hub: its folders, what is verified, who sees a token, and every refusal in one line."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_server import COMMIT, Answer, Call, Hub, false_hub

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights import hub as repositories
from polymodal.weights import network
from polymodal.weights.fetch import fetch, find, home
from polymodal.weights.hub import fetch_hub, fetch_repository
from polymodal.weights.source import Source

WEIGHTS = bytes(range(256)) * 4000
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"torch",
    "modeling.py": b"print()",
    "vae/config.json": b"{}",
    "README.md": b"# tiny",
}
FOLDER = Path("hub/models--lab--tiny")


def source(**changes: object) -> Source:
    known = {"kind": "hub", "name": "lab/tiny", "revision": "main", "file": "model.safetensors"}
    return Source(**(known | changes))  # type: ignore[arg-type]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with false_hub(dict(FILES)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running["hub"])
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield running


def test_a_file_lies_where_the_hubs_own_client_keeps_it(hub: Hub) -> None:
    from huggingface_hub import try_to_load_from_cache

    calls: list[tuple[str, int, int | None]] = []
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    path = fetch(source(sha256=digest, size=len(WEIGHTS)), lambda *call: calls.append(call))
    assert path == home() / FOLDER / "snapshots" / COMMIT / "model.safetensors" and path.read_bytes() == WEIGHTS
    assert path.resolve() == (home() / FOLDER / "blobs" / digest).resolve()
    assert (home() / FOLDER / "refs" / "main").read_text() == COMMIT
    assert try_to_load_from_cache("lab/tiny", "model.safetensors", cache_dir=home() / "hub") == str(path)
    assert calls[-1] == ("lab/tiny model.safetensors", len(WEIGHTS), len(WEIGHTS))
    hub.forget()
    assert find(source(sha256=digest)) == fetch(source(sha256=digest)) == path and hub.seen == []
    with pytest.raises(WeightsError, match="has sha256"):
        fetch(source(sha256="2" * 64))
    assert not path.exists(), "what is not the record's file is removed"


def test_small_files_have_the_hash_of_git(hub: Hub) -> None:
    path = fetch_hub(source(file="vae/config.json"))
    assert path.read_bytes() == b"{}" and path.resolve().name == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    hub.files["vae/config.json"] = b"[]"
    hub.change = lambda call, answer: answer.changed(ETag='"' + "9" * 40 + '"')
    with pytest.raises(WeightsError, match=r"expected git 9999.*found.*removed, try again"):
        fetch_hub(source(file="vae/config.json", revision="next"))
    # A store that answers with the plain sha1 of the bytes, or with something that is no hash at all.
    plain = hashlib.sha1(b"[]").hexdigest()
    for etag in (plain, "an md5: a/b+c=="):
        hub.change = lambda call, answer, etag=etag: answer.changed(ETag=f'"{etag}"')
        assert fetch_hub(source(file="vae/config.json", revision=f"r{len(etag)}")).read_bytes() == b"[]"


def test_an_interrupted_file_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(call: Call, answer: Answer) -> Answer:
        whole = call.server != "store" or "range" in call.headers
        return (
            answer
            if whole
            else Answer(200, (*answer.headers, ("Content-Length", str(len(WEIGHTS)))), WEIGHTS[:400_000])
        )

    hub.change = cut
    assert fetch_hub(source()).read_bytes() == WEIGHTS
    assert [c.headers.get("range") for c in hub.seen if c.server == "store"] == [None, "bytes=400000-"]


def test_the_token_reaches_the_endpoint_alone(hub: Hub) -> None:
    fetch_repository("lab/tiny", "main")
    sent = {(call.server, call.headers.get("authorization")) for call in hub.seen}
    assert sent == {("hub", "Bearer hf_secret"), ("store", None)}


def test_a_repository(hub: Hub) -> None:
    """A whole checkpoint: one commit, no code, torch files only where there are no safetensors."""
    folder = fetch_repository("lab/tiny", "main")
    assert folder == home() / FOLDER / "snapshots" / COMMIT
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["config.json", "model.safetensors", "vae/config.json"]
    # What is here is used as it is: no network, also by the name of the branch, but not when a shard is gone.
    hub.forget()
    assert fetch_repository("lab/tiny", "main", offline=True) == fetch_repository("lab/tiny", "main") == folder
    assert hub.seen == []
    (folder / "model.safetensors").unlink()
    hub.files = {"pytorch_model.bin": b"torch", "config.json": b"{}"}
    hub.commit = "f" * 40
    folder = fetch_repository("lab/tiny", "main")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_a_repository_that_is_refused(hub: Hub) -> None:
    def refuse(path: Path) -> None:
        assert path.name == "config.json"
        raise WeightsError("not ours")

    with pytest.raises(WeightsError, match="not ours"):
        fetch_repository("lab/tiny", "main", check=refuse)
    assert {call.path.rpartition("/")[2] for call in hub.seen} == {"main", "config.json"}, "only its config was fetched"
    hub.files = {"README.md": b"", "config.json": b"{}"}
    with pytest.raises(WeightsError, match=r"holds no weights$"):
        fetch_repository("lab/tiny", "main")
    hub.files |= {name: b"" for name in ("a.Q4_0.gguf", "a.Q8_0.gguf", "mmproj.gguf", "b.gguf")}
    with pytest.raises(WeightsError, match=r"but GGUF files .a.Q4_0.gguf, a.Q8_0.gguf, mmproj.gguf.; download one"):
        fetch_repository("lab/tiny", "main")
    with pytest.raises(WeightsError, match="not in the cache, and offline"):
        fetch_repository("lab/other", "main", offline=True)
    with pytest.raises(WeightsError, match="no such repository"):
        fetch_repository("lab/other", "main")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", "asks for consent"),
        (401, "RepoNotFound", "no such repository"),
        (404, "RevisionNotFound", "no revision 'main'"),
        (404, "EntryNotFound", "no file 'model.safetensors'"),
        (401, "", "no such repository, or it is private"),
        (404, "\x1b[31m", "no such repository, revision or file"),
        (418, "", "the hub answered 418"),
        (500, "", r"no answer from the hub \(lab/tiny: no answer from 127.0.0.1 \(status 500\)\); check the network"),
    ],
)
def test_refusals(hub: Hub, status: int, code: str, words: str) -> None:
    hub.change = lambda *_: Answer(status, (("X-Error-Code", code),))
    with pytest.raises(WeightsError, match=words) as caught:
        fetch_hub(source())
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match=r"offline work was asked for .*HF_HUB_OFFLINE"):
        fetch_hub(source())
    assert hub.seen == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    with pytest.raises(Unreachable, match="no answer from the hub"):
        fetch_hub(source())


def test_a_full_disk_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(network, "write_block", full)
    with pytest.raises(WeightsError, match="disk is full"):
        fetch_hub(source())


def test_an_index_that_names_what_is_no_file(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    for shard, whole in [
        ("a.safetensors", True),
        ("b.safetensors", False),
        ("../a.safetensors", False),
        ("/etc/passwd", False),
    ]:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
        assert repositories._is_whole(tmp_path) is whole
    for text in ("[]", "{}", '{"weight_map": {"w": ["a"]}}', '{"weight_map": [1]}', "[" * 10_000):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        assert not repositories._is_whole(tmp_path)
