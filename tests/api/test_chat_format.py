"""Whose chat format a folder has is told without its weights, and is what the loaded model says."""

import json

import pytest

import polymodal as pm
from polymodal.cli.app import run
from tiny_folders import FOLDERS, tiny

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_folder_without_its_weights_has_the_format_of_its_model(name, tmp_path):
    model = tiny(name, tmp_path)
    assert model.chat_format
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    assert pm.chat_format(tmp_path) == model.chat_format


@pytest.mark.parametrize("name", ["qwen2-vl", "llava-1.5", "chameleon"])
def test_show_names_it(name, tmp_path, capsys):
    model = tiny(name, tmp_path)
    assert run(["show", str(tmp_path)]) == 0 and f"chat format: {name} (its own)" in capsys.readouterr().out
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert run(["show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chat_format"] == "chat_template.jinja" != model.chat_format
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    assert run(["show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chat_format"] == "", "without a tokenizer there is no conversation"


def test_what_cannot_be_told_is_not_made_up(tmp_path, capsys):
    tiny("llava-1.5", tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    assert run(["show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chat_format"] is None
    assert run(["show", "clip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chat_format"] is None
