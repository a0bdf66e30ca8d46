"""`polymodal study`: what it prints, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from outcome import Outcome, is_one_line

Command = Callable[..., Outcome]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    x = np.random.default_rng(0).normal(size=(30, 2, 6)).astype(np.float32)
    np.savez(tmp_path / "vision.npz", feats=x)
    np.savez(tmp_path / "language.npz", feats=x[:, ::-1])
    return tmp_path / "vision.npz", tmp_path / "language.npz"


def test_two_files_are_compared_by_one_command(polymodal: Command, files: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("study", "convergence", *files, "--out", tmp_path / "out", "--topk", 3)
    done, said = polymodal(*given, "--json"), polymodal(*given)
    assert done.code == said.code == 0, done.err
    assert done.json["pairs"][0]["alignment"] == pytest.approx(1.0) and done.json["samples"] == 30
    assert done.json["pairs"][0]["layers"] == [0, 1]  # the same layers in another order
    assert "1.000" in said.out and f"30 samples; see {tmp_path / 'out' / 'convergence.html'}" in said.out
    kept = json.loads((tmp_path / "out" / "convergence.json").read_text())
    assert kept["pairs"] == done.json["pairs"]


def test_the_help_lists_both(polymodal: Command) -> None:
    shown = polymodal("study", "--help")
    assert shown.code == 0 and "fusion" in shown.out and "convergence" in shown.out
    options = polymodal("study", "fusion", "--help").out
    assert "--quick" in options and "--speech" in options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fusion",), "study fusion needs data: --data FILE"),
        (("fusion", "--data", "a.jsonl", "--speech", "said.jsonl"), "there is no data at said.jsonl; expected"),
        (("convergence", "one.npz"), "compares two models or more; found one.npz"),
        (("convergence", "a.npz", "b.npz", "--metric", "cosine"), "metric 'cosine' is not known; expected one of"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(polymodal: Command, tmp_path: Path, arguments: tuple, message: str) -> None:
    done = polymodal("study", *arguments, "--out", tmp_path / "out")
    assert is_one_line(done), done
    assert message in done.err


def test_a_file_of_features_that_is_not_there_is_named(polymodal: Command, tmp_path: Path) -> None:
    outcome = polymodal(
        "study", "convergence", tmp_path / "vision.npz", tmp_path / "words.npz", "--out", tmp_path / "o"
    )
    assert outcome.code == 2 and is_one_line(outcome) and "there is no file of features at" in outcome.err


def test_without_the_fetched_pictures_one_line_says_how_to_get_them(polymodal: Command, tmp_path: Path) -> None:
    outcome = polymodal("study", "convergence", "--out", tmp_path / "out")
    assert outcome.code == 2 and is_one_line(outcome) and "polymodal check --fetch" in outcome.err
