"""Published configs and the other small files of a folder, broken in thousands of ways: each opens, or is refused in
one line.  None is a defect, none takes long or fills memory."""

import contextlib
import io
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from attack.broken_folders import use, write_all
from attack.config_mutations import broken, damaged
from polymodal import systems
from polymodal.api.published import ABSENT
from polymodal.cli import catalogue
from polymodal.systems import System

PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "published.json").read_text("utf-8"))


def shallow(config: Any) -> Any:
    """A config with two layers in place of many, so that one look takes little time."""
    if isinstance(config, Mapping):
        cut = {name: 2 if re.search("layers?$|depth$|blocks$", name) and type(value) is int and value > 2 else value
               for name, value in config.items()}  # fmt: skip
        return {name: shallow(value) for name, value in cut.items() if "vocabulary_map" not in name}
    return [shallow(each) for each in config] if isinstance(config, list | tuple) else config


@pytest.fixture(scope="session")
def real() -> dict[str, Any]:
    """Configs of the catalogue's variants, one of each format, and of published folders that are read here."""
    found = {
        name: shallow(each["config"])
        for name, each in PUBLISHED.items()
        if each.get("config") and each["config"].get("model_type") not in ABSENT
    }
    for system in systems.every():
        for variant in system.variants:
            if variant.config is not None:
                found[f"{system.id}-{variant.format}"] = shallow(variant.config)
    return found


def look_at(folder: Path, how: str) -> None:
    """What `show FOLDER`, `show FOLDER --json` and `show FOLDER --svg FILE` do."""
    with contextlib.redirect_stdout(io.StringIO()):
        catalogue.show([str(folder)], json=how == "json", svg=folder / "drawing.svg" if how == "svg" else None)


def small_files(folder: Path) -> list[Path]:
    """The JSON files of a folder but its whole tokenizer."""
    return sorted(path for path in folder.glob("*.json") if path.name != "tokenizer.json")


@contextlib.contextmanager
def changed(path: Path, rng: random.Random) -> Iterator[None]:
    """A JSON file of a folder is broken; afterwards it is as it was."""
    whole = path.read_text(encoding="utf-8")
    try:
        text = damaged(whole, rng) if rng.random() < 0.15 else json.dumps(broken(json.loads(whole), rng))
        path.write_text(text, encoding="utf-8")
        yield
    finally:
        path.write_text(whole, encoding="utf-8")


def test_show_of_broken_configs(attack, real, tmp_path, monkeypatch):
    monkeypatch.setattr(System, "check_recipe", lambda system, names=(): None)  # it takes long
    names = sorted(real)
    for number, rng in attack.inputs(160):
        name = rng.choice(names)
        config = broken(real[name], rng)
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with attack.one(f"{number} ({name})", seconds=30):
            look_at(tmp_path, rng.choice(("text", "json", "svg")))


def test_loading_and_use_of_folders_with_broken_files(attack, tmp_path):
    folders = write_all(tmp_path)
    for number, rng in attack.inputs(120):
        path = rng.choice(small_files(rng.choice(folders)))
        with changed(path, rng), attack.one(f"{number} ({path.parent.name}/{path.name})", seconds=30):
            use(path.parent)
