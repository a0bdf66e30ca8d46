"""An agent has no parameters: it loads, is drawn, checked and asked what it can do like every other system."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import polymodal as pm
from polymodal.check import engine
from polymodal.check.record import Evidence
from polymodal.cli.app import app
from polymodal.cli.drawing import draw, render
from polymodal.cli.output import console
from polymodal.diagram.describe import describe
from polymodal.diagram.layout import scene_of
from polymodal.errors import ConfigError

FILE = str(Path(__file__).parent / "agent_system.py")


def test_it_loads_and_does_what_its_functions_do(tmp_path: Path) -> None:
    model = pm.load(FILE)
    assert model.can == ("transcribe", "embed") and not list(model.parameters())
    assert model.transcribe((torch.zeros(800).numpy(), 8000)).text == "nothing was said"
    assert model.embed([pm.text("two words"), pm.text("one")]).shape == (2, 2)
    with pytest.raises(ConfigError, match="cannot chat; it takes text, audio and offers transcribe, embed"):
        model.chat("hello")
    assert model.to(dtype=torch.bfloat16) is model and model.train() is model.eval()


def test_show_draws_it_with_no_parameters(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["show", FILE, "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["parameters"] == 0 and [part["slot"] for part in found["parts"]] == ["tool", "tool"]
    assert CliRunner().invoke(app, ["show", FILE, "--svg", str(tmp_path / "a.svg")]).exit_code == 0
    assert "count" in CliRunner().invoke(app, ["show", FILE]).stdout
    system, variant = pm.look(FILE)
    nothing = replace(system, parts=None)  # nothing to draw at all
    bare, scene = draw(nothing, variant), scene_of([describe(nothing, variant)])
    console().print(render(bare))
    assert bare.parameters == 0 and bare.boxes == () and scene.shapes


def test_check_counts_nothing_and_finds_it_right() -> None:
    system, _ = pm.look(FILE)
    evidence = Evidence(oracle="none", cases=())
    assert engine.build(system, evidence) == {
        "ok": True, "parameters": 0, "published": 0,
        "variants": [{"variant": "tools", "parameters": 0, "dropped": 0, "published": 0, "ok": True}],
    }  # fmt: skip
    assert engine.keys(system, evidence) == {"ok": None, "why": "an agent has no weights of its own"}
    assert engine.passed(engine.check(system))


def test_a_system_that_gives_nothing_is_no_agent() -> None:
    system, variant = pm.look(FILE)
    for other in (replace(system, load=None), replace(system, variants=(replace(variant, parameters=7),))):
        assert not other.is_agent
        with pytest.raises(ConfigError, match="is not read from a published config"):
            other.module(variant)
