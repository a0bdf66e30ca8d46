"""Limits in the environment: one syntax for every variable, the names as documented, and no reader beside the one."""

import re
from pathlib import Path

import pytest

from polymodal.data import limits as media
from polymodal.errors import ConfigError
from polymodal.weights import config_limits as configs
from polymodal.weights import limits as weights
from polymodal.weights import network_limits as network

ROOT = Path(__file__).parents[2]
KINDS = {
    media.VARIABLE: (media.own_limits, "seconds"),
    weights.VARIABLE: (weights.weights_limits, "values"),
    configs.VARIABLE: (configs.config_limits, "layers"),
    network.VARIABLE: (network.network_limits, "members"),
}


@pytest.mark.parametrize("variable", KINDS)
def test_one_syntax_for_all(variable, monkeypatch):
    read, name = KINDS[variable]
    default = getattr(read(), name)
    for said in (f"{name}=2e6", f" {name}=2000000 ,", f"{name}=7,{name}=2e6"):
        monkeypatch.setenv(variable, said)
        assert getattr(read(), name) == 2_000_000 and type(getattr(read(), name)) is type(default)
    for said in ("10", name, f"{name}=", f"{name}=many", f"{name}=0", f"{name}=-1", f"{name}=nan", f"{name}=0x10",
                 "=5", "wrong=5", "__class__=5", f"{name}=1=2", "x" * 5000):  # fmt: skip
        monkeypatch.setenv(variable, said)
        with pytest.raises(
            ConfigError, match=f"{variable} has .*; expected NAME=NUMBER, positive, with a name of "
        ) as no:
            read()
        assert name in str(no.value) and len(str(no.value)) < 500
    monkeypatch.setenv(variable, "")
    assert getattr(read(), name) == default


def test_every_variable_is_listed_and_read_in_one_place():
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    sources = {path: path.read_text("utf-8") for path in (ROOT / "src" / "polymodal").rglob("*.py")}
    named = {name for text in sources.values() for name in re.findall(r"POLYMODAL_\w*LIMITS", text)}
    assert named == KINDS.keys()
    assert all(f"`{name}`" in page for name in named)
    for name in ("weights", "config"):
        read = weights.weights_limits if name == "weights" else configs.config_limits
        row = next(line for line in page.splitlines() if line.startswith(f"| `POLYMODAL_{name.upper()}_LIMITS`"))
        assert re.findall(r"`(\w+)`", row)[1:] == list(vars(read()))
