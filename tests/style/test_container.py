"""The Dockerfile copies all that its own steps read."""

import re

from project_source import PACKAGE

ROOT = PACKAGE.parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
_, BUILD, LAST = DOCKERFILE.split("\nFROM ")


def test_what_the_build_runs_is_copied() -> None:
    copied = [word for line in re.findall(r"^COPY (?!--)(.+)", BUILD, re.MULTILINE) for word in line.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied), copied
    wanted = {name for name in re.findall(r"python (scripts/\w+\.py)", BUILD)}
    for script in list(wanted):
        named = re.findall(r'"scripts" / "(\w+\.py)"', (ROOT / script).read_text(encoding="utf-8"))
        wanted |= {f"scripts/{name}" for name in named}
    assert wanted >= {"scripts/install.py", "scripts/check_environment.py"}
    folders = {"constraints", "src"}  # install.py reads the pins, pip builds the package
    readme = re.search(r'^readme = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted | folders | {"pyproject.toml", readme[1], "LICENSE"} <= set(copied)


def test_the_server_runs_without_rights() -> None:
    assert re.search(r"^USER polymodal$", LAST, re.MULTILINE) and "--api-key-file" in LAST
