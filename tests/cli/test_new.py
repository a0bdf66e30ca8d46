"""`polymodal new`: what it writes is formatted, recognised and right in every column of `check`, as it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from polymodal.cli.new import FILES, filled, identifier
from polymodal.errors import ConfigError

ROOT = Path(__file__).parents[2]


def command(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a copy of the checkout, whose own package it imports."""
    env = {**os.environ, "PYTHONPATH": str(place / "src")}
    return subprocess.run([sys.executable, *arguments], cwd=place, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout with one more system, as `new` and scripts/lists.py leave it."""
    place = tmp_path_factory.mktemp("checkout")
    leave = shutil.ignore_patterns("__pycache__", "assets", "fixtures")
    for name in ("src", "scripts", "docs"):
        shutil.copytree(ROOT / name, place / name, ignore=leave)
    for name in ("assets", "fixtures"):
        found = next((ROOT / "src").glob(f"polymodal/*/{name}"), None) or next((ROOT / "src").glob(f"*/*/*/{name}"))
        (place / found.relative_to(ROOT)).symlink_to(found)
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, place / name)
    done = command(place, "-m", "polymodal", "new", "My System.2")
    assert done.returncode == 0, done.stderr
    lists = command(place, "scripts/lists.py")
    assert lists.returncode == 0, lists.stderr
    return place


def test_the_files_are_formatted_and_have_no_lint(checkout):
    pytest.importorskip("ruff")
    made = [path.format(stem="my_system_2") for path in FILES.values()]
    for arguments in (("check",), ("format", "--check")):
        done = command(checkout, "-m", "ruff", *arguments, *made)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_column_is_right(checkout):
    pytest.importorskip("transformers")
    done = command(checkout, "-m", "polymodal", "check", "my-system.2", "--json")
    result = json.loads(done.stdout)
    answers = {name: found["ok"] for name, found in result.items() if name != "id"}
    unsure = [name for name in ("recipe", "headline") if "pictures are not in the cache" in result[name].get("why", "")]
    assert answers == dict.fromkeys(answers, True) | dict.fromkeys(unsure), result
    assert done.returncode == 0 and result["parity"]["max_abs_error"] <= 1e-4


def test_its_own_test_passes(checkout):
    done = command(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", FILES["test"].format(stem="my_system_2"))
    assert done.returncode == 0, done.stdout


def test_it_is_in_the_lists(checkout):
    assert "my-system.2, next-gpt" in (checkout / "README.md").read_text()
    assert '"my-system.2": ("my_system_2",)' in (checkout / "src/polymodal/systems/_recognition.py").read_text()


def test_a_file_of_one_s_own(polymodal, tmp_path):
    path = tmp_path / "mine.py"
    assert polymodal("new", path).code == 0
    outcome = polymodal("check", path, "--json")
    assert outcome.code == 0 and all(found["ok"] for name, found in outcome.json.items() if name != "id"), outcome.out
    assert polymodal("show", path, "--json").json["parameters"] == 180_080


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
    assert outcome.code == 2 and "run it in a checkout of polymodal, or write my-system.py" in outcome.err


def test_names():
    assert identifier("My System.2") == ("my-system.2", "my_system_2")
    assert 'model_type": "my-system"' in filled("record", "my-system", "my_system", "My System")
    with pytest.raises(ConfigError):
        identifier("--")
