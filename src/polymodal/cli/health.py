"""`doctor`: what this machine and this installation are, and whether polymodal can work on them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON


def doctor(
    json: JSON = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the two speed measurements.")] = False,
) -> None:
    """Check this machine: versions, memory, GPU, codecs, cache, models that are here, measured speed."""
    from polymodal.cli import machine
    from polymodal.cli.output import console, print_json, waiting

    with waiting("looking at the machine"):
        found = machine.look(measure=not quick)
    if json:
        print_json(found)
    else:
        console().print(table(found))
        for problem in found["problems"]:
            typer.echo(f"problem: {problem}")
    if found["problems"]:
        raise typer.Exit(1)


def table(found: dict[str, Any]) -> Any:
    """The findings as rows of name and value."""
    from rich.table import Table

    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in found.items():
        if name != "problems":
            rows.add_row(name, words(value))
    return rows


def words(value: Any) -> str:
    """A finding in words: lists with commas, records as `name value`, nothing as "none"."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {words(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(words, value)) or "none"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
