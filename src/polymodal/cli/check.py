"""`check`: the evidence of a system, run now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.errors import ConfigError

PAGE = Path("docs/catalogue.md")


def check(
    id: Annotated[str | None, typer.Argument(help="A system of the catalogue.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every system; writes docs/catalogue.md.")] = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch the pictures that training checks train on (22 MB).")
    ] = False,
    page: Annotated[Path, typer.Option(help="Where --all writes the page.")] = PAGE,
    json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
) -> int:
    """Prove that a system is what it says: sizes, names, equal outputs, cache, batches, recipe, headline."""
    if fetch:
        from polymodal.check import real
        from polymodal.cli.output import transfers

        with transfers() as progress:
            real.fetch(progress)
        if id is None and not all:
            return 0
    if (id is None) != all:
        raise ConfigError("check: name one system, or --all; `polymodal systems` lists them")
    from polymodal import systems
    from polymodal.check import engine

    chosen = engine.all_checked() if all else [systems.get(str(id))]
    results = [_one(system, json) for system in chosen]
    if all:
        from polymodal.check.page import page as written
        from polymodal.cli.output import write_text

        write_text(page, written(chosen, results))
    if json:
        from polymodal.cli.output import print_json

        print_json(results if all else results[0])
    return 0 if all_right(results) else 1


def all_right(results: list[dict[str, Any]]) -> bool:
    """Whether nothing was found wrong in any of them."""
    from polymodal.check import engine

    return not [result for result in results if not engine.passed(result)]


def _one(system: Any, json: bool) -> dict[str, Any]:
    """Run one system, with a line for each part unless JSON is wanted."""
    from polymodal.check import engine
    from polymodal.cli.output import console

    out = console(error=True)
    with out.status(system.id) as status:
        result = engine.check(system, lambda text: status.update(f"{system.id}: {text}"))
    if not json:
        console().print(render(result))
    return result


def render(result: dict[str, Any]) -> Any:
    """The result for a terminal."""
    from rich.table import Table

    from polymodal.check.engine import PARTS

    table = Table("", "", "", title=result["id"], title_justify="left", show_header=False)
    words = {True: "ok", False: "WRONG", None: "not checked"}
    for part in PARTS:
        table.add_row(part, words[result[part]["ok"]], about(part, result[part]).replace("[", "\\["))
    for each in result.get("exceptions", ()):
        table.add_row("exception", "", each)
    return table


def about(part: str, found: dict[str, Any]) -> str:
    """One part in words."""
    if found.get("why"):
        return found["why"]
    if part == "build":
        return f"{found['parameters']:,} parameters, published {found['published']:,}"
    if part == "keys":
        return f"{found['used']} used, {found['dropped']} dropped, {found['new']} new ({found['source']})"
    if part == "parity":
        return f"largest error {found['max_abs_error']:.1e} in {len(found['cases'])} cases; {found['oracle']}"
    if part == "recipe":
        return "; ".join(f"{s['name']} {s['first_loss']:.2f} -> {s['last_loss']:.2f}" for s in found["stages"])
    return found.get("evidence") or f"{found.get('cases', 0)} cases"
