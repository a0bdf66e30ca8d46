"""`new`: the files of a system from which a contributor goes on, working as they are.

    polymodal new my-system --fusion A     in a checkout: record, evidence and test of a tiny system
    polymodal new ./mine.py --fusion A     anywhere: the record alone, as a file of your own

The files are those of `templates/` with the names put in; `@STAGE@` and its like stand for a piece that all types
share, in a file of that name.  `polymodal check` passes every column of what it wrote.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from polymodal.errors import ConfigError

SOURCE = Path("src/polymodal")
LONGEST = 24  # letters of an id, so that no line of the files becomes too long
TOWER = """("vision_config", {"model_type": "resnet"}, "vision_config.model_type 'resnet' is not supported")"""
CODEC = """("vq_config", {"double_latent": True}, "vq_config.double_latent is not supported")"""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the shared pieces say differently for a type of fusion.

    about: in a few words.  published, built: parameters by the names on disk, which hold the tower's last norm too, and
    in the model, where it is dropped.  placeholders: ids of a picture.  refused: a row of the written test.
    """

    about: str
    published: str
    built: str
    placeholders: str = "16"
    refused: str = TOWER
    fresh: str = ""


KINDS = {
    "A": Kind(about="cross-attention between the blocks", published="299_604", built="299_508", placeholders="1"),
    "B": Kind(about="layers of its own inside the blocks", published="225_360", built="225_264"),
    "C": Kind(about="features at placeholders", published="200_784", built="200_688"),
    "D": Kind(about="discrete tokens of one vocabulary", published="229_556", built="229_556", refused=CODEC,
              fresh="\n        fresh=spread_codes,"),
}  # fmt: skip
OWN_FILE = {
    "@OWN_IMPORT@\n": "from polymodal.check.demo import with_fresh_weights\n",
    "@OWN_LOAD@\n": '    load=with_fresh_weights(parse_config, ("<image>",)),\n',
}
PIECES = ("stage", "headline")  # templates that stand inside others
FILES = {
    "record": "src/polymodal/systems/{stem}.py",
    "evidence": "src/polymodal/check/evidence/{stem}.py",
    "test": "tests/systems/test_{stem}.py",
}


def new(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="./my_system.py: a file of your own; my-system: files for this checkout of polymodal."
        ),
    ],
    fusion: Annotated[
        str,
        typer.Option(help=f"How pictures enter: {'; '.join(f'{key}, {kind.about}' for key, kind in KINDS.items())}."),
    ] = "C",
) -> None:
    """Write a tiny working system to start from: a chat about pictures, with the type of fusion that you name."""
    own = Path(name) if name.endswith(".py") else None
    id, stem = identifier(own.stem if own is not None else name)
    type = fusion.upper()
    if type not in KINDS:
        raise ConfigError(f"new: --fusion {fusion!r} is no type of fusion; expected {', '.join(KINDS)}")
    words = words_of(type, id, stem, own.stem if own is not None else name)
    if own is not None:
        write({own: filled(f"record_{type.lower()}", words | {"@PARAMETERS@": KINDS[type].built} | OWN_FILE)})
        typer.echo(f"wrote {name}, a system with random weights; next: polymodal check {name}")
        return
    if not (SOURCE / "systems" / "_record.py").is_file():
        raise ConfigError(
            f"new: there is no {SOURCE} here; run it in a checkout of polymodal, or write a file of "
            f"your own: polymodal new ./{stem}.py"
        )
    free(id)
    names = {"record": f"record_{type.lower()}", "evidence": f"evidence_{type.lower()}", "test": "test"}
    write({Path(path.format(stem=stem)): filled(names[kind], words) for kind, path in FILES.items()})
    typer.echo("wrote " + ", ".join(path.format(stem=stem) for path in FILES.values()))
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


def words_of(type: str, id: str, stem: str, name: str) -> dict[str, str]:
    """What stands for the marks of the templates."""
    camel = "".join(part.capitalize() for part in re.split(r"[-._]", stem)) + "ForConditionalGeneration"
    kind = KINDS[type]
    return {
        "@ID@": id,
        "@STEM@": stem,
        "@NAME@": re.sub(r"[\"\\]", "", name),
        "@CLASS@": camel,
        "@YEAR@": str(datetime.datetime.now(tz=datetime.UTC).year),
        "@PARAMETERS@": kind.published,
        "@PLACEHOLDERS@": kind.placeholders,
        "@REFUSED@": kind.refused,
        "@FRESH@": kind.fresh,
        **dict.fromkeys(OWN_FILE, ""),
    }


def filled(template: str, words: Mapping[str, str]) -> str:
    """A template with its pieces and the words in it."""
    text = read(template)
    for piece in PIECES:
        text = text.replace(f"@{piece.upper()}@\n", read(piece))
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text


def read(template: str) -> str:
    return (resources.files("polymodal.cli") / "templates" / f"{template}.py.txt").read_text(encoding="utf-8")


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
