"""Published configs and the other small files of a folder, broken in thousands of ways: each opens, or is refused in one
line.  None is a defect, none takes long or fills memory."""

import contextlib
import copy
import io
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from attack.config_mutations import broken, damaged

import polymodal as pm
from polymodal import systems
from polymodal.cli import catalogue
from tiny_folders import FOLDERS, tiny

PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "published.json").read_text("utf-8"))


def shallow(config: Any) -> Any:
    """A config with two layers in place of many, so that one look takes little time."""
    if isinstance(config, Mapping):
        cut = {name: 2 if "layers" in name and type(value) is int and value > 2 else value
               for name, value in config.items()}  # fmt: skip
        return {name: shallow(value) for name, value in cut.items() if "vocabulary_map" not in name}
    return [shallow(each) for each in config] if isinstance(config, list | tuple) else config


@pytest.fixture(scope="session")
def real() -> dict[str, Any]:
    """Configs of the catalogue's variants, one of each format, and of published folders."""
    found = {name: shallow(each["config"]) for name, each in PUBLISHED.items() if each.get("config")}
    for system in systems.every():
        for variant in system.variants:
            if variant.config is not None:
                found[f"{system.id}-{variant.format}"] = shallow(variant.config)
    return found


def look_at(folder: Path) -> None:
    """What `show FOLDER`, `show --json` and `show --svg` do."""
    with contextlib.redirect_stdout(io.StringIO()):
        catalogue.show([str(folder)], json=True, svg=folder / "drawing.svg")
        catalogue.show([str(folder)])


def test_show_of_broken_configs(attack, real, tmp_path):
    names = sorted(real)
    for number, rng in attack.inputs(200):
        name = rng.choice(names)
        config = broken(real[name], rng)
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with attack.one(f"{number} ({name})"):
            look_at(tmp_path)
