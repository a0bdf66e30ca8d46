"""`check`: the evidence of a system, run now; what any folder and any system file must do, tried on one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.errors import ConfigError, UnknownName

Run = Callable[[Callable[[str], None]], dict[str, Any]]
PAGE = Path("docs/catalogue.md")


def check(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            help="A system of the catalogue, a checkpoint folder or file, or your own ./system.py (which is run).",
        ),
    ] = None,
    all: Annotated[
        bool, typer.Option("--all", help="Every system of the catalogue; writes docs/catalogue.md and docs/systems.")
    ] = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch the pictures that training checks train on (22 MB).")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="The id of the system to read a checkpoint as, where several fit.")
    ] = None,
    page: Annotated[
        Path,
        typer.Option(help="Where --all writes the table; the pages of single systems go beside it."),
    ] = PAGE,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Systems that --all checks at the same time.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
) -> int:
    """Verify a system of the catalogue, a checkpoint, or a system of your own.

    A system: parameters, tensor names, outputs equal to the original's, cache, batches, training recipe, headline.

    A checkpoint: it is recognised, its names fit, it loads, runs, generates and is the same after saving.

    Your own ./system.py: it builds, runs, every stage trains, and it is the same after saving.
    """
    if fetch:
        from polymodal.check import real
        from polymodal.cli.output import transfers

        with transfers() as progress:
            real.fetch(progress)
        if what is None and not all:
            return 0
    if (what is None) != all:
        raise ConfigError(
            "check: name one system, folder or ./system.py, or give --all; `polymodal systems` lists the systems"
        )
    if jobs > 1 and not all:
        raise ConfigError("check: --jobs says how many systems --all checks at the same time; it needs --all")
    if what is not None and (run := of_files(what, system)) is not None:
        results = [_shown(what, run, json)]
    else:
        results = _catalogue(what, json, page, jobs)
    if json:
        from polymodal.cli.output import print_json

        print_json(results if all else results[0])
    return 0 if all_right(results) else 1


def of_files(what: str, system: str | None) -> Run | None:
    """The check of a folder, a weights file or a system file; None for a system of the catalogue, whose names come
    before a folder that happens to have the same one.  Raises UnknownName for a path at which there is nothing."""
    from polymodal import systems

    if Path(what.partition(":")[0]).suffix == ".py":
        from polymodal.check.own_system import check_own_system

        return lambda say: check_own_system(what, say)
    path = Path(what)
    if not re.search(r"[/\\]", what):
        try:
            systems.get(what)
        except UnknownName:
            if not path.exists():
                raise
        else:
            return None
    if not path.exists():
        raise UnknownName(f"there is no folder, weights file or system file at {what}")
    from polymodal.check.folder import check_folder

    return lambda say: check_folder(path, system, say)


def _catalogue(id: str | None, json: bool, page: Path, jobs: int) -> list[dict[str, Any]]:
    """One system of the catalogue, or all of them and their page."""
    from polymodal import systems
    from polymodal.check import engine

    if id is not None:
        found = systems.get(id)
        return [_shown(found.id, lambda say: engine.check(found, say), json)]
    from polymodal.check import proved
    from polymodal.check.page import DETAILS, pages
    from polymodal.check.processes import check_all
    from polymodal.cli.output import write_text
    from polymodal.cli.picture import draw_map

    try:
        (page.parent / DETAILS).mkdir(exist_ok=True)  # before minutes of work whose result has nowhere to go
    except OSError as problem:
        raise ConfigError(f"cannot write into {page.parent}: {problem.strerror}") from problem
    chosen = engine.all_checked()
    runs: Iterable[Run] = (partial(engine.check, each) for each in chosen)
    if jobs > 1:
        runs = (partial(_found, result) for result in check_all([each.id for each in chosen], jobs))
    results = [_shown(each.id, run, json) for each, run in zip(chosen, runs, strict=True)]
    for name, text in pages(chosen, results).items():
        write_text(page.parent / name if name else page, text)
    rows = proved.rows_of(results)
    draw_map(chosen, [(page.parent / "map.svg", "svg")], rows)
    if page == PAGE:  # in a checkout; what `polymodal systems` says is proved
        write_text(proved.FILE, proved.document(rows))
    return results


def _found(result: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """What another process found."""
    return result


def all_right(results: list[dict[str, Any]]) -> bool:
    """Whether nothing was found wrong in any of them."""
    from polymodal.check import engine

    return not [result for result in results if not engine.passed(result)]


def _shown(name: str, run: Run, json: bool) -> dict[str, Any]:
    """Run one check, with a line for each part unless JSON is wanted."""
    from rich.text import Text

    from polymodal.cli.output import console

    with console(error=True).status(Text(name)) as status:
        result = run(lambda text: status.update(Text(f"{name}: {text}")))
    if not json:
        console().print(render(result))
    return result


def render(result: dict[str, Any]) -> Any:
    """The result for a terminal."""
    from rich.table import Table

    from polymodal.check.engine import parts_of

    table = Table("", "", "", title=result["id"], title_justify="left", show_header=False)
    words = {True: "ok", False: "WRONG", None: "not checked"}
    for part in parts_of(result):
        table.add_row(part, words[result[part]["ok"]], about(part, result[part]))
    for each in result.get("exceptions", ()):
        table.add_row("exception", "", each)
    return table


def about(part: str, found: dict[str, Any]) -> str:
    """One part in words."""
    if found.get("why"):
        return found["why"]
    if found.get("evidence"):
        return found["evidence"]
    if part == "build":
        return f"{found['parameters']:,} parameters, published {found['published']:,}"
    if part == "keys":
        return f"{found['used']} used, {found['dropped']} dropped, {found['new']} new ({found['source']})"
    if part == "parity":
        return f"largest error {found['max_abs_error']:.1e} in {len(found['cases'])} cases; {found['oracle']}"
    if part == "recipe":
        return "; ".join(f"{s['name']} {s['first_loss']:.2f} -> {s['last_loss']:.2f}" for s in found["stages"])
    return f"{found.get('cases', 0)} cases"
