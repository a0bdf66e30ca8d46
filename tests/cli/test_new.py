"""`polymodal new`: what it writes, of each type of fusion, is formatted, recognised and passes the columns of `check`.

The headlines of A, B and D, the slowest column, are left out; that of C stands for them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from polymodal.cli.new import FILES, KINDS, filled, identifier, words_of
from polymodal.errors import ConfigError

ROOT = Path(__file__).parents[2]
STEMS = ("my_system_2", "of_a", "of_b", "of_d")
COLUMNS = """
import json
from polymodal import systems
from polymodal.check import engine
engine.headline = lambda *_: {"ok": True}
print(json.dumps([engine.check(systems.get(f"of-{type}")) for type in "abd"]))
"""


def command(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a copy of the checkout, whose own package it imports."""
    env = {**os.environ, "PYTHONPATH": str(place / "src")}
    return subprocess.run([sys.executable, *arguments], cwd=place, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout with a system more of each type, as `new` and scripts/lists.py leave it."""
    place = tmp_path_factory.mktemp("checkout")
    leave = shutil.ignore_patterns("__pycache__", "assets", "fixtures")
    for name in ("src", "scripts", "docs"):
        shutil.copytree(ROOT / name, place / name, ignore=leave)
    for name in ("assets", "fixtures"):
        found = next((ROOT / "src").glob(f"polymodal/*/{name}"), None) or next((ROOT / "src").glob(f"*/*/*/{name}"))
        (place / found.relative_to(ROOT)).symlink_to(found)
    for name in ("README.md", "README.zh-CN.md", "pyproject.toml"):
        shutil.copy(ROOT / name, place / name)
    others = "from polymodal.cli.new import new\nfor type in 'abD': new(f'of-{type}', type)"
    for arguments in (("-m", "polymodal", "new", "My System.2"), ("-c", others)):
        done = command(place, *arguments)
        assert done.returncode == 0, done.stderr
    lists = command(place, "scripts/lists.py")
    assert lists.returncode == 0, lists.stderr
    return place


def test_the_files_are_formatted_and_have_no_lint(checkout):
    pytest.importorskip("ruff")
    made = [path.format(stem=stem) for path in FILES.values() for stem in STEMS]
    for arguments in (("check",), ("format", "--check")):
        done = command(checkout, "-m", "ruff", *arguments, *made)
        assert done.returncode == 0, done.stdout + done.stderr


def wrong(result: dict) -> list[str]:
    """The columns that are not right, data that are not here left out."""
    absent = "pictures are not in the cache"
    columns = {name: found for name, found in result.items() if name != "id"}
    return [name for name, found in columns.items() if not found["ok"] and absent not in found.get("why", "")]


def test_every_column_is_right(checkout):
    pytest.importorskip("transformers")
    done = command(checkout, "-m", "polymodal", "check", "my-system.2", "--json")
    result = json.loads(done.stdout)
    assert not wrong(result) and done.returncode == 0, result
    assert result["parity"]["max_abs_error"] <= 1e-4


def test_every_column_of_the_other_types_is_right(checkout):
    done = command(checkout, "-c", COLUMNS)
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout):
        assert not wrong(result) and result["parity"]["max_abs_error"] <= 1e-4, result
        assert result["cache"]["ok"] and result["batch"]["ok"]


def test_records_are_no_longer_than_the_style_allows(checkout):
    lengths = {stem: len((checkout / FILES["record"].format(stem=stem)).read_text().splitlines()) for stem in STEMS}
    assert max(lengths.values()) <= 150, lengths


def test_their_own_tests_pass(checkout):
    tests = [FILES["test"].format(stem=stem) for stem in STEMS]
    done = command(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout


def test_it_is_in_the_lists(checkout):
    assert "my-system.2, next-gpt" in (checkout / "README.md").read_text()
    assert '"my-system.2": ("my_system_2",)' in (checkout / "src/polymodal/systems/_recognition.py").read_text()


@pytest.mark.parametrize("type", KINDS)
def test_a_file_of_one_s_own(polymodal, tmp_path, type):
    path, picture = tmp_path / "mine.py", tmp_path / "red.png"
    assert polymodal("new", path, "--fusion", type).code == 0
    outcome = polymodal("check", path, "--json")
    assert outcome.code == 0 and all(found["ok"] for name, found in outcome.json.items() if name != "id"), outcome.out
    assert "ids with text, image" in outcome.json["forward"]["evidence"]
    assert polymodal("show", path, "--json").json["parameters"] == int(KINDS[type].built)
    Image.new("RGB", (40, 30), "red").save(picture)
    outcome = polymodal("ask", picture, "What is it?", "--model", path, "--max-tokens", 3, "--json")
    assert outcome.code == 0 and outcome.json["tokens"]["image"] == int(KINDS[type].placeholders), outcome.err


def test_an_unknown_type_is_refused(polymodal, tmp_path):
    outcome = polymodal("new", tmp_path / "mine.py", "--fusion", "E")
    assert outcome.code == 2 and "--fusion 'E' is no type of fusion; expected A, B, C, D" in outcome.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llava", "there is a system of that name, llava ("),
        ("Share GPT-4V", "there is a system of that name, sharegpt4v ("),
        ("9lives", "'9lives' is no name for a system"),
        ("a" * 25, "24 at most"),
        ("hidden/.py", "'.py' is no name for a system"),
    ],
)
def test_what_cannot_be_written_is_one_line(polymodal, monkeypatch, name, words):
    monkeypatch.chdir(ROOT)
    outcome = polymodal("new", name)
    assert outcome.code == 2 and words in outcome.err and outcome.err.count("\n") == 1


def test_nothing_is_overwritten_and_a_checkout_is_needed(polymodal, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("kept")
    assert polymodal("new", "./mine.py").code == 2 and Path("mine.py").read_text() == "kept"
    outcome = polymodal("new", "my-system")
    assert (
        outcome.code == 2
        and "run it in a checkout of polymodal, or write a file of your own: polymodal new ./my_system.py"
        in outcome.err
    )


def test_names():
    assert identifier("My System.2") == ("my-system.2", "my_system_2")
    words = words_of("C", "my-system", "my_system", "My System")
    assert 'model_type": "my-system"' in filled("record_c", words) and "@" not in filled("evidence_c", words)
    with pytest.raises(ConfigError):
        identifier("--")
