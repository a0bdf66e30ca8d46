"""Records that were filled in wrongly: one line that names the record, the field and what was expected."""

from dataclasses import replace

import pytest
from torch import nn

import polymodal as pm
from polymodal import systems
from polymodal.check import engine
from polymodal.check.record import Case, Evidence, HeadlineResult
from polymodal.cli.app import run
from polymodal.errors import ConfigError
from polymodal.systems import (
    AdamW,
    CheckpointFormat,
    LanguageModeling,
    ModelSpec,
    Part,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.train.loop import run_stage
from polymodal.weights.keytable import KeyTable

TABLE = KeyTable.of({"weight": "weight"})
FORMAT = CheckpointFormat(
    name="mine", matches=hf("mine"), parse_config=lambda config: ModelSpec(build=nn.Identity, keys=(TABLE,))
)
SYSTEM = System(
    id="mine", aliases=("Mine",), year=2026, fusion=("C",), assembly="Identity", inputs=("text",), outputs=("text",),
    variants=(Variant(name="tiny", parameters=4, config={"model_type": "mine"}),), headline="none", reference="none",
    formats=(FORMAT,),
)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(SYSTEM, fusion="C"), r"System 'mine': fusion must be tuple\[str, ...\], found str 'C'"),
        (lambda: replace(SYSTEM, variants=(3,)), r"System 'mine': variants must be tuple\[Variant, ...\]"),
        (lambda: replace(SYSTEM, formats=(FORMAT, None)), "System 'mine': formats must be .*CheckpointFormat"),
        (lambda: replace(SYSTEM, year="2026"), "System 'mine': year must be int, found str '2026'"),
        (lambda: Variant(name="7b", parameters="7e9"), "Variant '7b': parameters must be int, found str '7e9'"),
        (lambda: ModelSpec(build=nn.Identity, keys=TABLE), "ModelSpec: keys must be tuple"),
        (lambda: ModelSpec(build=nn.Identity, keys=()), "ModelSpec: keys must hold one KeyTable at least"),
        (lambda: ModelSpec(build=nn.Identity(), keys=(None,)), "ModelSpec: keys must be tuple"),
        (
            lambda: Part(slot="vision", name="ViT", prefix="", input="", output=""),
            "Part 'ViT': slot must be one of encoder, connector, .*, found 'vision'",
        ),
        (
            lambda: Stage(name="align", data=(), objective=LanguageModeling, train=("connectors",)),
            "Stage 'align': objective must be Objective, found type",
        ),
        (
            lambda: Stage(name="align", data=(), objective=LanguageModeling(), train="connectors"),
            r"Stage 'align': train must be tuple\[str, ...\], found str 'connectors'",
        ),
        (lambda: Case(name="one", make=None), "Case 'one': make must be Callable"),
    ],
)
def test_a_field_of_another_kind(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def with_format(parse_config) -> System:
    return replace(SYSTEM, formats=(replace(FORMAT, parse_config=parse_config),))


@pytest.mark.parametrize(
    ("parse_config", "words"),
    [
        (lambda config: None, "mine: parse_config returned None; expected ModelSpec"),
        (lambda config: next(iter(())), "mine: config.json has a value of another kind: .*test_wrong_records.py, line"),
        (lambda config: config.width, "mine: config.json has a value of another kind: .*'width'.*, line"),
        (lambda config: ModelSpec(build=nn.Identity, key=(TABLE,)), "has no field 'key'; did you mean 'keys'"),
        (lambda config: ModelSpec(keys=(TABLE,)), "ModelSpec lacks build"),
        (lambda config: ModelSpec(build=lambda: None, keys=(TABLE,)), "mine:tiny: build returned None; expected"),
    ],
)
def test_a_format_that_gives_no_model(parse_config, words):
    system = with_format(parse_config)
    with pytest.raises(ConfigError, match=words):
        system.module(system.variants[0])


FILE = """
from polymodal.systems import System, Variant
def nothing(*arguments): return None
SYSTEM = System(id="mine", aliases=(), year=2026, fusion=(), assembly="", inputs=("text",), outputs=("text",),
    headline="", reference="", build=nothing, parts=nothing, load=nothing,
    variants=(Variant(name="tiny", parameters=3),))
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("headline=", "headlin=", "mine.py, line 4: System has no field 'headlin'; did you mean 'headline'?"),
        ("year=2026, ", "", "mine.py, line 4: System lacks year"),
        ("parameters=3", "", "mine.py, line 6: Variant lacks parameters"),
        ("Variant(name=", "Variant('tiny', name=", "line 6: Variant takes its fields by name, as Variant(name="),
        ('inputs=("text",)', 'inputs=("text")', "mine.py, line 4: System 'mine': inputs must be tuple[str, ...]"),
        ("variants=(V", "variants=(Variant(name='tiny', parameters=1), V", "the same name, variant 'tiny'"),
        ("build=nothing, ", "", "needs formats, or build, parts and load"),
        ("Variant\n", "Varian\n", "mine.py, line 2: ImportError: cannot import name 'Varian'"),
        ("", "", "mine:tiny: build returned None; expected Module"),
    ],
)  # fmt: skip
def test_an_own_file_with_a_wrong_record_is_one_line(tmp_path, capsys, old, new, words):
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace(old, new, 1))
    assert run(["show", str(path)]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and "Traceback" not in err


def test_a_load_that_gives_no_loaded_model(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    with pytest.raises(ConfigError, match="mine:tiny: load returned None; expected LoadedModel"):
        pm.load(str(path))


def test_a_record_of_the_catalogue_with_a_fault_names_its_file(monkeypatch):
    monkeypatch.setattr(systems._lookup.importlib, "import_module", lambda name: System(id="x", headlin=""))
    with pytest.raises(ConfigError, match=r"systems/vilt/__init__.py, line .*: System has no field 'headlin'"):
        systems.get("vilt")


def proof(**changes) -> Evidence:
    return Evidence(**{"oracle": "none", "cases": (), **changes})


def test_evidence_that_gives_nothing_is_a_wrong_column_that_says_so():
    system = systems.get("sharegpt4v")
    empty = proof(cases=(Case(name="one", make=lambda folder: None),))
    found = engine.guarded(lambda: engine.parity(system, empty, [], print))
    assert found == {"ok": False, "why": "case 'one': make returned None; expected Expected"}
    found = engine.guarded(lambda: engine.headline(system, proof(headline=lambda: True), print))
    assert found["why"] == "headline returned bool True; expected HeadlineResult"
    found = engine.guarded(lambda: engine.headline(system, proof(headline=lambda: HeadlineResult(okay=True)), print))
    assert "HeadlineResult has no field 'okay'" in found["why"]
    found = engine.guarded(lambda: engine.recipe(system, proof(training_checks={"pretrain": lambda: None}), print))
    assert found["why"] == "training check of pretrain returned None; expected TrainingCheck"
    found = engine.guarded(lambda: next(iter(())))
    assert found["ok"] is False and "StopIteration" in found["why"] and "test_wrong_records.py, line" in found["why"]


def test_a_stage_that_trains_nothing_is_refused(tmp_path):
    stage = Stage(name="idle", data=(), objective=LanguageModeling(), train=(), optimizer=AdamW(lr=1e-3))
    with pytest.raises(ConfigError, match="stage idle trains nothing"):
        run_stage(nn.Identity(), stage, lambda step, generator: {}, tmp_path)


def shown(ok=True) -> HeadlineResult:
    return HeadlineResult(ok=ok, evidence="seen")


def test_the_headline_counts_every_layout_that_shows_something():
    system = systems.get("vit")
    names = [format.name for format in system.formats[1:]]
    excused = dict.fromkeys(names, "a bare encoder")
    found = engine.headline(system, proof(headline=shown, layouts=excused), print)
    assert found["ok"] is True and [row["name"] for row in found["layouts"]] == names
    assert f"{names[0]}: a bare encoder" in found["evidence"]
    wrong = engine.headline(system, proof(headline=shown, layouts={**excused, names[1]: lambda: shown(False)}), print)
    assert wrong["ok"] is False and wrong["layouts"][1]["ok"] is False
    forgotten = engine.headline(system, proof(headline=shown, layouts={names[0]: shown}), print)
    assert forgotten["ok"] is None and "no demonstration is written for this layout" in forgotten["why"]
    with pytest.raises(ConfigError, match="layouts names 'official ViT'; expected transformers ViTModel"):
        engine.headline(system, proof(headline=shown, layouts={"official ViT": shown}), print)
