"""`check --all` in several processes: the same results in the same order, and the pages."""

import json
from pathlib import Path

import pytest

from polymodal import systems
from polymodal.check import engine


def test_systems_are_checked_beside_each_other(polymodal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["hugginggpt", "early-fusion-svm", "audiogpt"]
    monkeypatch.setattr(engine, "all_checked", lambda: [systems.get(name) for name in names])
    outcome = polymodal("check", "--all", "--jobs", "2", "--json", "--page", str(tmp_path / "catalogue.md"))
    found = json.loads(outcome.out)
    assert [each["id"] for each in found] == names
    assert found[1] == json.loads(json.dumps(engine.check(systems.get("early-fusion-svm"))))
    assert outcome.code == (0 if all(map(engine.passed, found)) else 1)
    assert "hugginggpt" in (tmp_path / "catalogue.md").read_text() and (tmp_path / "map.svg").exists()
    assert (tmp_path / "systems" / "audiogpt.md").exists()


def test_jobs_are_of_all_systems(polymodal) -> None:
    outcome = polymodal("check", "early-fusion-svm", "--jobs", "2")
    assert outcome.code == 2 and "it needs --all" in outcome.err
