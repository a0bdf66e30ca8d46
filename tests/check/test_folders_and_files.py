"""`polymodal check` of a folder and of a user's own system file: what is right passes, each fault is in its column."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from polymodal.check.folder import PARTS, check_folder
from polymodal.check.own_system import PARTS as FILE_PARTS
from polymodal.check.own_system import check_own_system
from polymodal.cli.app import run
from tiny_folders import tiny

TESTS = Path(__file__).parents[1]
OWN = TESTS / "cli" / "tiny_system.py"


def answers(result: dict) -> dict:
    return {name: found["ok"] for name, found in result.items() if isinstance(found, dict)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    tiny("llava-1.5", folder)
    return folder


@pytest.fixture
def copied(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def changed(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def test_a_sound_folder_passes_every_column(checkpoint):
    result = check_folder(checkpoint)
    assert answers(result) == dict.fromkeys(PARTS, True), result
    assert result["recognised"]["system"] == "llava-1.5" and result["names"]["dropped"] == 0
    assert "two conversations with text, image" in result["forward"]["evidence"]
    assert "loss" in result["forward"]["evidence"] and "4 tokens" in result["generate"]["evidence"]


def test_a_folder_that_polymodal_saved_passes_too(checkpoint, tmp_path):
    import polymodal as pm

    saved = pm.load(checkpoint).save(tmp_path / "saved")
    assert answers(check_folder(saved)) == {**dict.fromkeys(PARTS, True), "names": None}


def test_a_folder_without_a_tokenizer_is_tried_on_ids(copied):
    (copied / "tokenizer.json").unlink()
    result = check_folder(copied)
    assert answers(result) == dict.fromkeys(PARTS, True), result
    assert "ids with text, image" in result["forward"]["evidence"]


def test_a_name_that_is_missing_is_in_the_column_of_names(copied):
    changed(copied, lambda weights: weights.pop("multi_modal_projector.linear_1.weight"))
    result = check_folder(copied)
    assert answers(result) == {"recognised": True, "names": False, "load": False, **dict.fromkeys(PARTS[3:])}
    assert "linear_1" in result["names"]["why"] or "connectors.image" in result["names"]["why"]


def test_weights_that_are_no_numbers_are_found(copied):
    changed(copied, lambda weights: weights["multi_modal_projector.linear_1.bias"].fill_(float("nan")))
    result = check_folder(copied)
    assert answers(result)["load"] is False and answers(result)["forward"] is False
    assert "connectors.image" in result["load"]["why"] and "logits" in result["forward"]["why"]


def test_a_config_of_nobody_is_not_recognised(copied, capsys):
    (copied / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    assert answers(check_folder(copied)) == {"recognised": False, **dict.fromkeys(PARTS[1:])}
    assert run(["check", str(copied)]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_the_command_takes_folders_files_and_ids(checkpoint, capsys, monkeypatch):
    assert run(["check", str(checkpoint), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["id", *PARTS]
    assert run(["check", str(OWN), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["id", *FILE_PARTS]
    monkeypatch.chdir(checkpoint)
    for missing in ("./nothing-here", "tigerbott"):
        assert run(["check", missing]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and missing in err
    assert run(["check", "--system", "clip", str(checkpoint)]) == 1


def test_an_own_system_passes_every_column():
    result = check_own_system(str(OWN))
    assert answers(result) == dict.fromkeys(FILE_PARTS, True), result
    assert "align" in result["recipe"]["evidence"] and "tune" in result["recipe"]["evidence"]


def test_an_agent_has_no_weights_to_check():
    result = check_own_system(str(TESTS / "cli" / "agent_system.py"))
    assert result["record"]["ok"] and result["forward"]["ok"] and result["build"]["ok"] is None
    assert result["save"]["ok"] is None and not [part for part in answers(result).values() if part is False]


@pytest.mark.parametrize(
    ("old", "new", "part", "words"),
    [
        ('("connectors",)', '("conectors",)', "record", "trains 'conectors'.*nearest: connectors"),
        ('prefix="connectors.image"', 'prefix="connector.image"', "record", "'connector.image' names no parameter"),
        ("headline=", "headlin=", "record", "System has no field 'headlin'; did you mean 'headline'"),
        ('name="toy", parameters=0', 'name="toy", parameters=7', "build", "toy: built [0-9,]+, the record says 7"),
        ("return LoadedModel(", "return None and LoadedModel(", "forward", "load returned None; expected LoadedModel"),
        ("return self.proj(pixel_values).", "return self.proj(pixel_values / 0 * 0).", "forward", "not finite"),
        ("torch.manual_seed(0)", "pass", "save", None),
    ],
)
def test_a_fault_of_an_own_system_is_in_its_column(tmp_path, old, new, part, words):
    text = OWN.read_text()
    assert old in text
    path = tmp_path / "own.py"
    path.write_text(text.replace(old, new))
    result = check_own_system(str(path))
    if words is None:  # fresh weights every time, but those of the folder are read
        assert result[part]["ok"], result[part]
        return
    assert result[part]["ok"] is False
    assert re.search(words, result[part]["why"]), result[part]["why"]


def test_an_empty_module_is_refused(tmp_path):
    path = tmp_path / "own.py"
    change = (
        "SYSTEM = dataclasses.replace(SYSTEM, build=lambda variant: nn.Module(), parts=lambda variant: (), recipe=())"
    )
    path.write_text(f"import dataclasses\n{OWN.read_text()}\n{change}\n")
    result = check_own_system(str(path))
    assert result["build"]["ok"] is False and "tiny:toy: build returned a module without parameters" in str(result)


def test_a_system_too_large_to_build_says_so(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from polymodal.systems.llava_1_5 import SYSTEM\n")
    result = check_own_system(str(path))
    assert result["record"]["ok"] and result["build"]["ok"] is None  # the final norm of the tower is dropped by name
    assert "7b, has 7,063," in result["forward"]["why"] and "add one of test size" in result["forward"]["why"]
