"""The same battery for every system of the catalogue, from its own evidence: a new system needs no test file.

What `polymodal check` also does and takes longer (headlines) runs there.
"""

import importlib

import pytest

from polymodal import systems
from polymodal.check import engine
from polymodal.check.compare import run_case
from polymodal.check.record import TOLERANCE, MissingData
from polymodal.cli.drawing import draw

SYSTEMS = engine.all_checked()
EVIDENCE = {system.id: engine.evidence_of(system) for system in SYSTEMS}
CASES = [pytest.param(s, case, id=f"{s.id}-{case.name}") for s in SYSTEMS for case in EVIDENCE[s.id].cases]


def needed(package: str) -> None:
    if package:
        pytest.importorskip(package)


@pytest.mark.parametrize(("system", "case"), CASES)
def test_outputs_equal_the_oracle_with_every_weight_random(system, case):
    needed(case.needs)
    outcome = run_case(case)
    assert outcome.system == system.id
    assert outcome.error <= TOLERANCE, outcome.why
    assert outcome.generated is not False, outcome.why
    assert outcome.cached is not False, "cached steps differ from the full pass"
    assert outcome.batched is not False, "a row of a batch differs from the row alone"


@pytest.mark.parametrize("system", [s for s in SYSTEMS if s.is_agent], ids=lambda system: system.id)
def test_recorded_outputs_of_planners_are_read_as_the_official_code_reads_them(system):
    found = engine.parity(system, EVIDENCE[system.id], [], lambda text: None)
    assert found["ok"], found.get("why")


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.id)
def test_published_sizes_have_the_published_names_and_numbers(system):
    evidence = EVIDENCE[system.id]
    for size in evidence.published:
        needed(size.needs)
    assert engine.build(system, evidence)["ok"] is not False, engine.build(system, evidence).get("why")
    assert engine.keys(system, evidence)["ok"] is not False


@pytest.mark.parametrize("system", [s for s in systems.every() if s.formats], ids=lambda system: system.id)
def test_a_record_is_whole(system):
    assert system.variants and system.headline and system.reference and system.aliases
    assert importlib.import_module(f"polymodal.check.evidence.{system.id.replace('-', '_').replace('.', '_')}")
    drawings = [draw(system, variant) for variant in system.variants]
    for drawing in drawings:
        assert drawing.variant.config is not None and drawing.boxes, "show needs parts"
    # A part that some stage trains is held by some variant; else its name is wrong.
    absent = [{(s.name, each) for s in drawing.stages for each in s.absent} for drawing in drawings]
    assert not set.intersection(*absent)
    for name in (system.id, *system.aliases):
        assert systems.get(name) is system


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.id)
def test_every_layout_has_a_headline_or_says_why_not(system):
    evidence = EVIDENCE[system.id]
    assert list(evidence.layouts) == [format.name for format in system.formats[1:]]
    assert evidence.headline is not None


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.id)
def test_each_stage_of_the_recipe_learns_from_real_data(system):
    evidence = EVIDENCE[system.id]
    assert set(evidence.training_checks) <= {stage.name for stage in system.recipe}, "a training check for no stage"
    try:
        found = engine.recipe(system, evidence, lambda text: None)
    except MissingData as missing:
        pytest.skip(str(missing))
    assert found["ok"] is not False, found
