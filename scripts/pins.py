"""The exact versions that tests and checks compare against: constraints/test.txt.

    PYTHON scripts/pins.py write     pin what the environment of this Python holds
    PYTHON scripts/pins.py changed   print where that environment differs from the pins, as a table

`make pins` and `make test-newest` run these in .venv-newest.  Left out are polymodal itself, pip, and torch with all
that only torch asks for: the machine chooses it (scripts/install.py), and it may want these at versions of its own.
"""

import importlib.metadata
import re
import sys
import tomllib

from install import CONSTRAINTS, ROOT

PINS = CONSTRAINTS / "test.txt"
BY_MACHINE = re.compile(r"^(polymodal|pip|torch|sympy|mpmath|networkx|setuptools|triton|nvidia-.*|cuda-.*)$")


def normal(name: str) -> str:
    """The name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """name -> version of everything in this environment that is pinned."""
    found = {normal(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(found) if not BY_MACHINE.match(name)}


def header(text: str) -> str:
    """The comment lines that a pins file begins with; they stay when it is written anew."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))])


def read(text: str) -> dict[str, str]:
    """name -> version of a pins file; exits with a line that is no exact pin."""
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, sign, version = line.strip().partition("==")
        if not sign or not re.fullmatch(r"[A-Za-z0-9.!+_-]+", version):
            sys.exit(f"{PINS}: expected NAME==VERSION, found '{line.strip()}'; write it anew with `make pins`")
        found[normal(name)] = version
    return found


def changes(pinned: dict[str, str], present: dict[str, str]) -> list[tuple[str, str, str]]:
    """(name, pinned, present) where the two differ; "-" where a package is on one side only."""
    names = sorted({*pinned, *present})
    rows = [(name, pinned.get(name, "-"), present.get(name, "-")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def table(rows: list[tuple[str, str, str]]) -> str:
    """The changes in columns under a title; one line that says so where there are none."""
    if not rows:
        return "The environment holds exactly the versions that are pinned in constraints/test.txt."
    whole = [("package", "pinned", "here"), *rows]
    widths = [max(len(row[column]) for row in whole) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in whole]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def oldest_python() -> tuple[int, ...]:
    """The lower bound of `requires-python`: what is pinned there installs on later ones too."""
    text = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    return tuple(map(int, text.removeprefix(">=").split(".")))


def write() -> None:
    oldest = oldest_python()
    if sys.version_info[:2] != oldest:
        wanted = ".".join(map(str, oldest))
        sys.exit(f"Pins are taken with Python {wanted}, the oldest supported: make pins PYTHON=python{wanted}")
    lines = [f"{name}=={version}\n" for name, version in installed().items()]
    PINS.write_text(header(PINS.read_text(encoding="utf-8")) + "".join(lines), encoding="utf-8")
    print(f"{PINS.relative_to(ROOT)}: {len(lines)} packages")


def main() -> None:
    commands = {"write": write, "changed": lambda: print(table(changes(read(PINS.read_text()), installed())))}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(commands)}")
    commands[sys.argv[1]]()


if __name__ == "__main__":
    main()
