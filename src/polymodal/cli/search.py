"""`search`: the pictures and sounds of a folder that are nearest to a text or to a file, from an index that is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, Load, loads_a_model, with_options
from polymodal.printable import one_line

if TYPE_CHECKING:
    from polymodal.pipelines.media_index import MediaIndex, Update

MOST_NAMED = 20
"""Bad files that are named in one run; --json lists all."""
HTML = Annotated[Path | None, typer.Option("--html", help="Write a contact sheet, one file with its thumbnails.")]
OPEN = Annotated[bool, typer.Option("--open", help="Open the contact sheet in the browser.")]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Where a contact sheet goes, if one is wanted, and whether it is opened."""

    html: Path | None
    open: bool


@loads_a_model
@lambda command: with_options(command, "sheet", {"html": (HTML, None), "open": (OPEN, False)}, Sheet)
def search(
    folder: Annotated[Path, typer.Argument(help="Its pictures, and sounds where the model embeds them.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="In quotes.", show_default=False)] = "",
    like: Annotated[
        str | None, typer.Option("--like", metavar="FILE", help="Search by a picture or sound, not by words.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="How many results.")] = 10,
    model: MODEL = "mini",
    json: JSON = False,
    *,
    sheet: Sheet,
    load: Load,
) -> None:
    """Find pictures in a folder: polymodal search photos/ "a cat on a sofa". The first time takes longest."""
    import polymodal as pm
    from polymodal.cli.inputs import expanded
    from polymodal.cli.output import print_json

    folder, wanted = expanded(str(folder)), what_is_wanted(folder, query, like)
    check_sheet(sheet)
    loaded = load(model)
    index = pm.index(loaded, folder)
    begin = time.perf_counter()
    found = updated(index)
    middle = time.perf_counter()
    hits = index.search(wanted, limit)
    seconds = {"index": round(middle - begin, 4), "search": round(time.perf_counter() - middle, 4)}
    if json:
        print_json(
            {
                "model": loaded.name,
                "query": query or None,
                "like": like,
                "results": [{"file": str(hit.path), "score": hit.score} for hit in hits],
                "indexed": found.indexed,
                "changed": found.changed,
                "skipped": [{"file": str(path), "error": why} for path, why in found.skipped.items()],
                "left_out": found.left_out,
                "index": str(index.file),
                "seconds": seconds,
            }
        )
    else:
        for hit in hits:
            print(f"{hit.score:6.3f}  {one_line(str(hit.path)) if sys.stdout.isatty() else hit.path}")
    complain_of(found)
    if not json:
        print(summary(loaded.name, found, seconds, index.file), file=sys.stderr)
    if sheet.html is not None or sheet.open:
        write_sheet(sheet, index, query or f"like {like}", loaded.name, hits)
    if found.skipped:
        raise typer.Exit(2)


def what_is_wanted(folder: Path, query: str, like: str | None) -> Any:
    """The text, or the media of --like.  Raises PromptError or ConfigError, before a model is loaded."""
    from polymodal.cli.inputs import expand, open_all
    from polymodal.cli.streams import as_text
    from polymodal.errors import ConfigError, MediaError, PromptError

    if folder.exists() and not folder.is_dir():
        raise MediaError(f"{folder} is a file, expected a folder; as in: polymodal search photos/ 'a cat'")
    if not folder.is_dir():
        raise MediaError(f"there is no folder {folder}")
    if (like is None) == (not query.strip()):
        found = "both" if like is not None else "neither"
        raise PromptError(f"search needs words or --like FILE, found {found}; as in: search photos/ 'a cat on a sofa'")
    if like is None:
        return as_text(query)
    (opened, *others) = open_all(expand([like]))
    if others:
        raise ConfigError(f"--like {like}: expected one file, found {len(others) + 1}")
    return opened


def check_sheet(sheet: Sheet) -> None:
    """Raises ConfigError for a contact sheet that cannot be written where it should be."""
    from polymodal.errors import ConfigError

    if sheet.html is not None and not sheet.html.parent.is_dir():
        raise ConfigError(f"cannot write {sheet.html}: there is no folder {sheet.html.parent}")


def updated(index: MediaIndex) -> Update:
    """The index brought up to date, with a bar on stderr; Ctrl-C says that what is done is kept."""
    try:
        with bar() as step:
            return index.update(progress=step)
    except KeyboardInterrupt:
        print("what was indexed is kept; the same command goes on from here", file=sys.stderr)
        raise


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time that is left, yields step(done, files in all, name); nothing when stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from polymodal.cli.output import console

    if not sys.stderr.isatty():
        yield lambda done, total, name: None
        return
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tty = sys.stdout.isatty()
    with Progress(*columns, console=console(error=True), transient=True, redirect_stdout=tty) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, name: progress.update(task, completed=done, total=total)


def complain_of(found: Update) -> None:
    """A line for each file that cannot be read, up to MOST_NAMED."""
    for path, why in list(found.skipped.items())[:MOST_NAMED]:
        print(f"polymodal: {one_line(str(path))}: {' '.join(why.split())}", file=sys.stderr)
    if len(found.skipped) > MOST_NAMED:
        more = len(found.skipped) - MOST_NAMED
        print(f"polymodal: {more} more files cannot be read; --json lists them", file=sys.stderr)


def summary(model: str, found: Update, seconds: dict[str, float], file: Path) -> str:
    """The cost of a search in one line, and where the index lies."""
    from polymodal.cli.output import counted

    parts = [model, counted(found.indexed, "file"), f"{found.changed:,} new or changed"]
    parts += [f"{count:,} of {modality} left out: not embedded" for modality, count in found.left_out.items()]
    parts.append("seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    return f"[{'; '.join(parts)}; the index, to be removed at will: {file}]"


def write_sheet(sheet: Sheet, index: MediaIndex, title: str, model: str, hits: list[Any]) -> None:
    """Write the contact sheet, beside the index where no name was given, and open it if asked to."""
    import webbrowser

    from polymodal.cli.contact_sheet import contact_sheet
    from polymodal.cli.output import write_text
    from polymodal.errors import ConfigError

    target = sheet.html or index.file.with_suffix(".html")
    write_text(target, contact_sheet(title, index.folder, model, hits))
    if sheet.html is not None:
        print(f"wrote {target}", file=sys.stderr)
    if sheet.open and not webbrowser.open(target.resolve().as_uri()):
        raise ConfigError(f"found no browser to open {target.resolve()}")
