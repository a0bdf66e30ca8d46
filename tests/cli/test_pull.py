"""`pull` and what goes wrong with weights: each mistake is one line, and nothing that was fetched is lost."""

import errno
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from local_site import Page, Site, serving
from outcome import is_one_line

import tiny_sets
from polymodal.data.sets import names
from polymodal.weights import connection, network, npm

CONTENT = bytes(range(256)) * 8192
ADDRESS = "/api/v1/models/lab/net/repo?Revision=v1&FilePath=net.bin"
SYSTEM = """
import sys
sys.path.insert(0, {folder!r})
import dataclasses, tiny_system
from polymodal.weights.source import Source
from polymodal.weights.load import open_source

SOURCE = Source({source})

def load(variant, options):
    for name in (tensors := open_source(SOURCE)):
        tensors[name]
    return tiny_system.load(variant, options)

variant = dataclasses.replace(tiny_system.SYSTEM.variants[0], weights=(SOURCE,))
SYSTEM = dataclasses.replace(tiny_system.SYSTEM, id="mine", variants=(variant,), load=load)
"""


def own_system(folder: Path, **source: object) -> Path:
    """A system file whose one source is described by the keywords of `Source`."""
    words = ", ".join(f"{name}={value!r}" for name, value in source.items())
    path = folder / "mine.py"
    path.write_text(SYSTEM.format(folder=str(Path(__file__).parent), source=words))
    return path


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(connection.time, "sleep", lambda _: None)
    with serving() as running:
        running.pages[ADDRESS] = Page(CONTENT)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running


@pytest.fixture
def served(tmp_path) -> Path:
    """A system whose weights lie on the local server, with the right hash and size."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    return own_system(
        tmp_path, kind="modelscope", name="lab/net", revision="v1", file="net.bin", sha256=digest, size=len(CONTENT)
    )


def test_pull_then_offline(polymodal, site: Site, served):
    first = polymodal("pull", served, "--json")
    (file,) = first.json["files"]
    assert first.code == 0 and Path(file["path"]).read_bytes() == CONTENT
    site.pages.clear()
    assert polymodal("pull", served, "--offline").code == 0


def test_a_changed_file_is_named_and_not_answered_from(polymodal, site: Site, served):
    """At use its size and time tell; with the time set back, reading it whole does."""
    path = Path(polymodal("pull", served, "--json").json["files"][0]["path"])
    assert polymodal("pull", "--verify").out == "1 file, 2.1 MB: all as downloaded\n"
    before = path.stat()
    path.write_bytes(CONTENT[:-1] + b"!")
    site.pages.clear()
    asked = polymodal("ask", "--model", served, "what?")
    assert is_one_line(asked) and f"{path} was changed after it was downloaded" in asked.err
    for command in (("pull", "--verify"), ("pull", "--verify", served), ("doctor", "--quick")):
        told = polymodal(*command)
        assert told.code == 1 and f"{path} was changed after it was downloaded" in told.out, command
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for record in (path.parents[5] / "verified").iterdir():
        known = json.loads(record.read_text())
        known["sha256"], known["time"] = hashlib.sha256(CONTENT).hexdigest(), before.st_mtime_ns
        record.write_text(json.dumps(known))
    assert polymodal("pull", served, "--offline").code == 0, "a time that was set back is believed at use ..."
    told = polymodal("pull", "--verify", served, "--json")
    assert told.code == 1 and str(path) in told.json["changed"][0], "... and not where the file is read whole"
    path.write_bytes(CONTENT)
    assert polymodal("pull", "--verify").code == 0
    path.unlink()
    assert polymodal("pull", "--verify").out.startswith("0 files"), "a file that was removed can be fetched again"


def test_pull_needs_a_name(polymodal):
    assert "name a model" in polymodal("pull").err


def test_progress_is_shown_on_stderr_only(polymodal, site: Site, served):
    outcome = polymodal("pull", served)
    assert "net.bin" in outcome.err and "1 file, 2.1 MB" in outcome.out


def test_no_network_on_first_pull(polymodal, site: Site, served, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    outcome = polymodal("pull", served)
    assert outcome.code == 1 and outcome.err.count("\n") == 1, "the network is at fault, not what was typed"
    assert "net.bin" in outcome.err and "network" in outcome.err


def test_a_hub_that_does_not_answer(tmp_path):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    environment |= {"POLYMODAL_HOME": str(tmp_path), "POLYMODAL_OFFLINE": "0"}
    command = [sys.executable, "-m", "polymodal", "pull", "lab/net"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stderr.startswith("polymodal: hub lab/net@main") and done.stdout == ""
    assert "no answer from the hub" in done.stderr and done.stderr.count("\n") == 1


def test_offline_on_first_pull(polymodal, site: Site, served):
    outcome = polymodal("pull", served, "--offline")
    assert is_one_line(outcome) and "not in the cache" in outcome.err and not site.seen


def test_wrong_hash(polymodal, site: Site, served):
    site.pages[ADDRESS].body = CONTENT[:-1] + b"x"
    outcome = polymodal("pull", served)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert "sha256" in outcome.err and "net.bin" in outcome.err
    site.pages[ADDRESS].body = CONTENT
    assert polymodal("pull", served).code == 0


def test_wrong_hash_of_a_local_file(polymodal, tmp_path):
    (tmp_path / "net.bin").write_bytes(CONTENT)
    system = own_system(tmp_path, kind="file", name=str(tmp_path / "net.bin"), sha256="0" * 64)
    outcome = polymodal("pull", system)
    assert is_one_line(outcome) and "sha256" in outcome.err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_full_disk_keeps_what_came_and_goes_on(polymodal, site: Site, served, monkeypatch, code):
    write, written = network.write_block, []

    def full(file, block):
        if len(written) == 3:
            raise OSError(code, os.strerror(code))
        written.append(len(block))
        write(file, block)

    monkeypatch.setattr(network, "write_block", full)
    outcome = polymodal("pull", served)
    assert outcome.code == 1 and outcome.err.count("polymodal: ") == 1 and "Traceback" not in outcome.err
    assert ("disk is full" if code in (errno.ENOSPC, errno.EDQUOT) else os.strerror(code)) in outcome.err
    assert "POLYMODAL_HOME" in outcome.err
    monkeypatch.setattr(network, "write_block", write)
    assert polymodal("pull", served).code == 0
    path, wanted, _ = site.seen[-1]
    assert path == ADDRESS and wanted == f"bytes={sum(written)}-"


def test_a_cache_that_cannot_be_written_or_has_no_room(polymodal, site: Site, served, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "file" / "cache"))
    outcome = polymodal("pull", served)
    assert outcome.code == 1 and "cannot be written: Not a directory" in outcome.err and outcome.err.count("\n") == 1
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "small"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    outcome = polymodal("pull", served)
    assert outcome.code == 1 and "are needed and 0.0 MB are free" in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_a_file_that_was_asked_for(polymodal, tiny, photo, tmp_path):
    for name in ("drawing.svg", "vectors.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    for words in (("show", tiny, "--svg", tmp_path / "drawing.svg"),
                  ("embed", photo, "-m", tiny, "--out", tmp_path / "vectors.jsonl")):  # fmt: skip
        outcome = polymodal(*words)
        assert outcome.code == 1 and "No space left on device" in outcome.err and outcome.err.count("\n") == 1
    outcome = polymodal("show", tiny, "--svg", "/nowhere/x.svg")
    assert is_one_line(outcome), "a wrong path is not the machine's fault"


def torch_file_with_code(marker: Path) -> bytes:
    """What `torch.save` writes, but the pickle inside creates a file."""

    class Touch:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({"weight": Touch()}))
        archive.writestr("net/version", "3\n")
    return packed.getvalue()


def safetensors_with_bad_offsets() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4_000_000]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 16


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("safetensors", safetensors_with_bad_offsets()),
        ("safetensors", struct.pack("<Q", 2**60) + b"{}"),
        ("safetensors", b""),
        ("torch", b"not a zip"),
        ("gguf", b"GGUF" + b"\xff" * 60),
        ("npz", b"PK\x03\x04 cut"),
    ],
)
def test_damaged_weights(polymodal, tmp_path, format, data):
    (tmp_path / "net.bin").write_bytes(data)
    system = own_system(tmp_path, kind="file", name=str(tmp_path / "net.bin"), format=format)
    outcome = polymodal("ask", "what?", "--model", system)
    assert is_one_line(outcome) and "net.bin" in outcome.err, outcome


def test_pickle_with_code_is_refused_and_not_run(polymodal, tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "net.pt").write_bytes(torch_file_with_code(marker))
    system = own_system(tmp_path, kind="file", name=str(tmp_path / "net.pt"), format="torch")
    outcome = polymodal("ask", "what?", "--model", system)
    assert is_one_line(outcome) and "net.pt" in outcome.err
    assert not marker.exists()


def test_the_sets_are_listed(polymodal):
    table, listed = polymodal("pull", "data:"), polymodal("pull", "data:", "--json")
    assert table.code == listed.code == 0 and "GPL-2" in table.out
    assert all(each["name"] in table.out and each["license"] and each["bytes"] for each in listed.json)


def test_a_set_is_prepared_and_its_licence_told(polymodal, site: Site, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(names, "SETS", {**names.SETS, "sounds": tiny_sets.serve(site, "sounds")})
    monkeypatch.setattr(npm, "npm_settings", lambda: {"registry": site.url})
    told = polymodal("pull", "data:sounds", "--out", tmp_path / "sounds")
    assert told.code == 0 and "licence: CC0-1.0; see" in told.out and (tmp_path / "sounds/train.jsonl").is_file()
    assert polymodal("pull", "data:sounds", "--out", tmp_path / "sounds", "--json").json["set"] == "sounds"
    assert polymodal("pull", "data:sounds").code == 0
    told = polymodal("pull", "--verify", "data:sounds")
    assert told.code == 0 and "all as downloaded" in told.out and "no hash" not in told.out
    (tmp_path / "sounds/test.jsonl").write_text("")
    (lost,) = Path(polymodal("pull", "data:sounds", "--json").json["path"]).glob("sounds/bd_808.flac")
    lost.unlink()
    told = polymodal("pull", "--verify", "data:sounds")
    assert told.code == 1 and f"{lost} is not there" in told.out
    for arguments, message in (
        (("data:sound",), "there is no data set 'sound'; there are tuxpaint,"),
        (("data:emoji", "--offline"), "data:emoji (22.3 MB) is not in"),
        (("mini", "--out", tmp_path), "--out is for data:NAME"),
    ):
        outcome = polymodal("pull", *arguments)
        assert is_one_line(outcome) and message in outcome.err, outcome
