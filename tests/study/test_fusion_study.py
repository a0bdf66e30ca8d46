"""The fusion study at tiny size: what it writes, what it goes on with, what it refuses, and how it decides."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check import real
from polymodal.errors import ConfigError
from polymodal.study.fusion_summary import at, spread
from polymodal.study.fusion_types import TYPES, added_by_speech, numbers
from polymodal.study.naming import held_out, pooled, tiny_subject
from polymodal.study.verdicts import CONFIRMED, REFUTED, UNDECIDED, decided, verdicts

pytestmark = pytest.mark.skipif(not real.samples_path().is_file(), reason="polymodal check --fetch was not run")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("fusion")
    return out, pm.study_fusion(pm.FusionOptions(out=out, quick=True, seeds=2))


def test_a_trial_measures_all_four(study: tuple[Path, dict[str, Any]]) -> None:
    out, found = study
    assert json.loads((out / "fusion.json").read_text()) == found
    assert found["quick"] and found["seeds"] == [0, 1] and found["verdicts"] == []
    for each in found["types"].values():
        assert 0 < each["trainable"] < each["parameters"] and each["text_difference"] == 0
        assert 0 < each["operations"]["forward"] < each["operations"]["train"]
        assert len(each["accuracy"]["values"]) == 2 and each["curve"][-1]["samples"] == 30 * 16
        assert each["curve"][-1]["loss"]["mean"] < 2.7  # 14 ids: 2.64 for a guess that knows nothing
    best = max(each["accuracy"]["mean"] for each in found["types"].values())
    assert best > 2 / found["names"]


def test_the_page_is_whole_and_says_that_it_is_a_trial(study: tuple[Path, dict[str, Any]]) -> None:
    page = (study[0] / "fusion.html").read_text()
    assert "says nothing about the types" in page and "mini-d" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    tables = (study[0] / "fusion.md").read_text().splitlines()
    assert tables[2] == "| | mini-a | mini-b | mini-c | mini-d |"
    assert all(row.count("|") == 6 for row in tables[3 : tables.index("", 3)])
    assert "| | mini-a | mini-a, shared blocks too | mini-b | mini-c | mini-d |" in tables


def test_finished_runs_are_not_run_again(study: tuple[Path, dict[str, Any]]) -> None:
    out, found = study
    kept = [path.stat().st_mtime_ns for path in sorted(out.glob("runs/*/result.json"))]
    again = pm.study_fusion(pm.FusionOptions(out=out, quick=True, seeds=2))
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("runs/*/result.json"))] == kept and len(kept) == 8
    assert again["types"] == found["types"]
    (out / "runs/mini-d-1/result.json").unlink()  # as a kill leaves it
    assert pm.study_fusion(pm.FusionOptions(out=out, quick=True, seeds=2))["types"].keys() == found["types"].keys()


def test_runs_of_another_plan_are_refused(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run = tmp_path / "runs/mini-a-0"
    run.mkdir(parents=True)
    kept = json.loads((study[0] / "runs/mini-a-0/result.json").read_text())
    (run / "result.json").write_text(json.dumps({**kept, "steps": 7}))
    with pytest.raises(ConfigError, match="holds a run with steps 7, asked is 30; give another --out"):
        pm.study_fusion(pm.FusionOptions(out=tmp_path, quick=True, seeds=1))
    with pytest.raises(ConfigError, match="needs data: --data FILE"):
        pm.study_fusion(pm.FusionOptions(out=tmp_path))


def test_what_each_type_adds_to_the_backbone() -> None:
    shape = tiny_subject().shape
    width, rows = shape.backbone.width, shape.entries["image"].codes
    assert numbers(TYPES["D"], shape) == rows * width == added_by_speech(TYPES["D"], shape)
    connector = 12 * width + width + width * width + width
    assert numbers(TYPES["C"], shape) == connector
    assert added_by_speech(TYPES["A"], shape) == added_by_speech(TYPES["C"], shape) == 372 * width + connector
    experts = sum(2 * width * (width + width // 2) for _ in range(shape.backbone.depth))  # q, o; k, v of half the heads
    assert numbers(TYPES["B"], shape) == connector + experts
    assert added_by_speech(TYPES["B"], shape) == 372 * width + connector + experts


def test_every_type_sees_the_picture() -> None:
    subject = tiny_subject()
    entry = subject.shape.entries["image"]
    for kind in TYPES.values():
        torch.manual_seed(0)
        model = kind.build(subject.shape, subject.weights).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                parameter.data.fill_(1.0)  # A's gates start closed
        batch = subject.naming.rows(kind, entry, torch.tensor([0, 25]))
        batch["input_ids"][:, -1] = 8
        logits = model(**batch).logits[:, -2]
        assert not torch.allclose(logits[0], logits[1]), kind.id


def test_the_split_and_the_cells() -> None:
    assert held_out([7] * 6 + [9] * 10).nonzero().flatten().tolist() == [4, 10, 15]
    cells = torch.arange(9.0).view(1, 9, 1)
    assert pooled(cells).flatten().tolist() == [2, 3, 5, 6]
    curve = [{"cpu": 1.0, "accuracy": 0.2}, {"cpu": 3.0, "accuracy": 0.4}]
    assert [at(curve, cpu, "accuracy") for cpu in (0.5, 2.0, 9.0)] == pytest.approx([0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("a", "c", "expected"),
    [
        ([0.2, 0.21, 0.22], [0.4, 0.41, 0.42], CONFIRMED),
        ([0.4, 0.41, 0.42], [0.2, 0.21, 0.22], REFUTED),
        ([0.2, 0.3, 0.4], [0.25, 0.35, 0.45], UNDECIDED),
        ([0.2], [0.4], UNDECIDED),
    ],
)
def test_a_verdict_needs_more_than_the_spread(
    study: tuple[Path, dict[str, Any]], a: list[float], c: list[float], expected: str
) -> None:
    types = {letter: dict(each) for letter, each in study[1]["types"].items()}
    types["A"]["accuracy"], types["C"]["accuracy"] = spread(a), spread(c)
    found = {**study[1], "types": types}
    assert decided(found, "accuracy", "C", "A") == expected
    rows = verdicts(found)
    assert next(row["verdict"] for row in rows if row["claim"] == "hungry for data") == expected
    assert all(row["because"] for row in rows) and {row["type"] for row in rows} == set("ABCD")
