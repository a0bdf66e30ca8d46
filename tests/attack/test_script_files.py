"""Files of Python that were meant to be looked at, and folders that bring code: neither runs."""

import importlib.util
import json
import marshal
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import polymodal as pm
from polymodal import systems
from polymodal.cli.app import run
from polymodal.errors import ConfigError, PolymodalError, UnknownName

TINY = Path(__file__).parents[1] / "cli" / "tiny_system.py"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: Any) -> Path:
    """A file that a script of this test writes when it runs; the cache is empty."""
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))
    return tmp_path / "it ran"


def script(marker: Path) -> str:
    return f"import pathlib\npathlib.Path({str(marker)!r}).write_text('x')\nSYSTEM = None\n"


@pytest.fixture
def saved(marker: Path, tmp_path: Path) -> Path:
    """A folder that this user saved from a system file of their own."""
    code = Path(shutil.copy(TINY, tmp_path / "own_system.py"))
    pm.load(code).save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_script_among_the_inputs_is_read_as_a_text(marker: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "script.py"
    path.write_text(script(marker))
    question = "Is this dangerous?"
    for words in ([str(path), question], [str(path), str(path), question], [f"{path}:small", question]):
        run(["ask", *words, "--model", str(TINY), "--max-tokens", "2"])
        run(["ask", *words, "--each", "--model", str(TINY), "--max-tokens", "2", "--json"])
    assert run(["ask", str(path), question, "--model", str(TINY), "--max-tokens", "2"]) == 0
    run(["classify", str(path), "yes", "no", "--model", str(TINY)])
    run(["transcribe", str(path), "--model", str(TINY)])
    run(["embed", str(path), "--model", str(TINY), "--out", str(tmp_path / "v.npy")])
    assert pm.media(path).text == script(marker)
    pm.load(TINY).chat(pm.media(str(path)), question, max_tokens=2)
    assert not marker.exists()


def test_what_takes_a_system_runs_it_and_says_so(marker: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "script.py"
    path.write_text(script(marker))
    for command in (["ask", "what?", "--model", str(path)], ["show", str(path)]):
        assert run(command) == 2 and marker.exists(), command
        assert "must hold SYSTEM = System(...)" in capsys.readouterr().err
        marker.unlink()
    for command in ("ask", "show", "check", "chat"):
        run([command, "--help"])
        shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "is run)" in shown, command


def test_a_name_that_is_no_name_finds_no_system() -> None:
    for name in (
        "???",
        "",
        ".",
        "-",
        "猫",
        "ＣＬＩＰ",
        "clip猫",
        "clip\u202e",
        "\x00",
        "???:7b",
        "猫:base",
        "..",
        "...:",
    ):
        with pytest.raises(UnknownName):
            systems.find(name)
    assert systems.find("C L I P")[0] is systems.find("clip")[0]


def rewritten(folder: Path, **code: Any) -> None:
    """The folder's record with another word about its code."""
    path = folder / "polymodal.json"
    record = json.loads(path.read_text())
    record["code"] |= code
    path.write_text(json.dumps(record))


def refused(folder: Path) -> None:
    for use in (pm.load, pm.look):
        with pytest.raises(PolymodalError):
            use(folder)


def test_code_of_a_folder_runs_as_the_file_that_was_run_before(saved: Path, marker: Path, tmp_path: Path) -> None:
    assert pm.load(saved).can
    evil = tmp_path / "evil.py"
    evil.write_text(script(marker))
    copy = saved / "own_system.py"
    record = json.loads((saved / "polymodal.json").read_text())["code"]
    (tmp_path / "own_system.py").unlink()
    assert pm.load(saved).can  # the copy
    shutil.copy(evil, copy)
    refused(saved)  # its words are others
    copy.unlink()
    copy.symlink_to(evil)
    refused(saved)
    copy.unlink()
    os.mkfifo(copy)
    refused(saved)
    copy.unlink()
    for code in (
        {"path": str(evil)}, {"file": "../evil.py"}, {"file": str(evil)}, {"path": "evil.py"}, {"sha256": ""},
        {"sha256": "../systems"}, {"sha256": "/etc/passwd"}, {"sha256": "."}, {"sha256": "\0"}, {"path": "\0.py"},
        {"file": "a\0.py"}, {"sha256": "٣" * 64}, {"path": 5}, {"file": None}, {"sha256": "f" * 64},
    ):  # fmt: skip
        rewritten(saved, **{**record, **code})
        refused(saved)
    assert not marker.exists()


def test_compiled_code_beside_a_file_is_left_alone(saved: Path, marker: Path, tmp_path: Path) -> None:
    """A stranger's folder may bring the very file that was run before, with a compiled one that says something else."""
    (tmp_path / "own_system.py").unlink()
    code = compile(script(marker), "own_system.py", "exec")
    unchecked = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + b"\0" * 8
    compiled = Path(importlib.util.cache_from_source(str(saved / "own_system.py")))
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(unchecked + marshal.dumps(code))
    assert pm.load(saved).can
    assert not marker.exists()


def test_the_same_file_elsewhere_is_not_run_there(saved: Path, marker: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    shutil.copy(TINY, place / "own_system.py")
    rewritten(saved, path=str(place / "own_system.py"))
    assert str(pm.load(saved).code) == str(saved / "own_system.py")


def test_a_file_that_changes_after_the_look_is_not_run(saved: Path, marker: Path, monkeypatch: Any) -> None:
    from polymodal.api import code

    (saved.parent / "own_system.py").unlink()
    copy = saved / "own_system.py"
    looked = code.file_sha256

    def look_then_swap(path: Path) -> str:
        found = looked(path)
        copy.write_text(script(marker))
        return found

    monkeypatch.setattr(code, "file_sha256", look_then_swap)
    with pytest.raises(ConfigError, match="has changed since it was looked at"):
        pm.load(saved)
    assert not marker.exists()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="must hold SYSTEM"):  # but what the user names is run as it is
        pm.load(saved, system=str(copy))
    assert marker.exists()
