"""`new`: the files of a system from which a contributor goes on, working as they are.

    polymodal new my-system     in a checkout: record, evidence and test of a tiny system of type C
    polymodal new ./mine.py     anywhere: the record alone, as a file of your own

The files are those of `templates/`, with the name put in; `polymodal check` passes every column of what it wrote.
"""

from __future__ import annotations

import datetime
import re
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from polymodal.errors import ConfigError

SOURCE = Path("src/polymodal")
LONGEST = 24  # letters of an id, so that no line of the files becomes too long
# A list of published names counts the tower's last norm too, which is dropped by name; a file of one's own has no list.
PARAMETERS, PUBLISHED, BUILT = "@PARAMETERS@", "180_176", "180_080"
FILES = {
    "record": "src/polymodal/systems/{stem}.py",
    "evidence": "src/polymodal/check/evidence/{stem}.py",
    "test": "tests/systems/test_{stem}.py",
}


def new(
    name: Annotated[
        str, typer.Argument(help="The name of a system for this checkout, or ./file.py for one of your own.")
    ],
) -> None:
    """Write a tiny working system to start from: pictures as tokens of a chat (type C)."""
    own = Path(name) if name.endswith(".py") else None
    id, stem = identifier(own.stem if own is not None else name)
    if own is not None:
        write({own: filled("record", id, stem, own.stem).replace(PARAMETERS, BUILT)})
        typer.echo(f"wrote {name}; next: polymodal check {name}")
        return
    if not (SOURCE / "systems" / "_record.py").is_file():
        raise ConfigError(f"new: there is no {SOURCE} here; run it in a checkout of polymodal, or write {name}.py")
    free(id)
    made = {Path(path.format(stem=stem)): filled(kind, id, stem, name) for kind, path in FILES.items()}
    write({path: text.replace(PARAMETERS, PUBLISHED) for path, text in made.items()})
    typer.echo("wrote " + ", ".join(str(path) for path in made))
    typer.echo(f"next: python scripts/lists.py; polymodal check {id}; docs/dev/systems.md says how to go on")


def identifier(name: str) -> tuple[str, str]:
    """The id and the stem of a name: "My System" -> "my-system", "my_system".  Raises ConfigError for what is none."""
    id = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    if not re.fullmatch(r"[a-z][a-z0-9.-]*", id) or len(id) > LONGEST or name.startswith("."):
        raise ConfigError(
            f"new: {name!r} is no name for a system; expected letters, digits, - and ., a letter first, "
            f"{LONGEST} at most"
        )
    return id, re.sub(r"[-.]", "_", id)


def free(id: str) -> None:
    """Raises ConfigError when a system is called so."""
    from polymodal import systems

    for system in systems.every():
        if systems.plain(id) in {systems.plain(name) for name in (system.id, *system.aliases)}:
            raise ConfigError(f"new: there is a system of that name, {system.id} ({system.aliases[0]}); choose another")


def filled(kind: str, id: str, stem: str, name: str) -> str:
    """A template with the names in it."""
    text = (resources.files("polymodal.cli") / "templates" / f"{kind}.py.txt").read_text(encoding="utf-8")
    camel = "".join(part.capitalize() for part in re.split(r"[-._]", stem)) + "ForConditionalGeneration"
    year = str(datetime.datetime.now(tz=datetime.UTC).year)
    words = {"@ID@": id, "@STEM@": stem, "@NAME@": re.sub(r"[\"\\]", "", name), "@CLASS@": camel, "@YEAR@": year}
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text


def write(files: dict[Path, str]) -> None:
    """All of them, or none when one is there already or cannot be written: ConfigError."""
    for path in files:
        if path.exists():
            raise ConfigError(f"new: {path} is there already; choose another name, or remove it first")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as problem:
            raise ConfigError(f"new: cannot write {path}: {problem.strerror}") from problem
