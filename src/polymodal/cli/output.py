"""How commands print: JSON with stable keys and tables on stdout, progress on stderr: stdout holds results alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.cli.cleaning import clean_redirected, own
from polymodal.errors import ConfigError, NotFinite
from polymodal.printable import json_text

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any, lines: bool = False) -> None:
    """One JSON document on stdout, on one line with `lines`; text stays readable where the output can encode it."""
    indent = None if lines else 2
    document = json_text(as_json(value, ensure_ascii=False, indent=indent))
    try:
        document.encode(sys.stdout.encoding or "utf-8", "strict")
    except UnicodeEncodeError:
        document = as_json(value, ensure_ascii=True, indent=indent)
    sys.stdout.write(document + "\n")
    sys.stdout.flush()


def as_json(value: Any, **options: Any) -> str:
    """JSON as the standard has it; raises NotFinite for NaN and infinite numbers, which it has no form for."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError as problem:
        raise NotFinite("the result holds NaN or an infinite number, which JSON cannot say") from problem


def console(error: bool = False) -> Console:
    """A rich console on stdout (or stderr); plain text when the output is not a terminal.

    Strings are printed as they are: the [brackets] and :colons: of a file's name are no markup, and what would act on
    the terminal is printed as escapes (cleaning.py).
    """
    from polymodal.cli.screen import Screen

    soft_wrap = not sys.stdout.isatty()
    stream = own(sys.stderr if error else sys.stdout)
    return Screen(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def human_bytes(count: float) -> str:
    """1536 -> "1.5 kB"; units of 1000, as disks and networks count."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def counted(count: int, noun: str) -> str:
    """1, "token" -> "1 token"; 2 -> "2 tokens"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while something without measurable progress runs; nothing when not a terminal.  Yields a
    function that says what it is at now."""
    if not sys.stderr.isatty():
        yield lambda now: None
        return
    with status_line(what) as update:
        yield lambda now: update(f"{what}: {now}")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Where many inputs have got to: yields step(done, name of the next); "classifying 3 of 120: cat.jpg".

    A status line on stderr, unless lines of results appear on the same terminal: they are progress enough.
    """
    if not sys.stderr.isatty() or (total > 1 and sys.stdout.isatty()):
        yield lambda done, name: None
        return
    with status_line(what) as update:
        yield lambda done, name: update(f"{what} {done + 1} of {total}: {name}")


@contextmanager
def status_line(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a line of text on stderr, a terminal; yields a function that changes the text.

    Lines printed on stdout meanwhile stay there: they are put above the spinner only if both are one terminal.
    """
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    spinner = Spinner("dots", Text(text), style="status.spinner")
    with Live(
        spinner, console=console(error=True), refresh_per_second=12.5, transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ):  # fmt: skip
        clean_redirected()
        yield lambda changed: spinner.update(text=Text(changed))


@contextmanager
def transfers() -> Iterator[Callable[[str, int, int | None], None]]:
    """Bars for downloads: yields report(name, bytes done, bytes in all or None); one bar a file, on stderr."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console(error=True), redirect_stdout=sys.stdout.isatty())
    bars: dict[str, Any] = {}

    def report(name: str, done: int, total: int | None) -> None:
        # Started by the first block, so that nothing at all is printed when everything is here already.
        if not bars:
            progress.start()
            clean_redirected()
        if name not in bars:
            bars[name] = progress.add_task(name, total=total)
        progress.update(bars[name], completed=done, total=total)

    try:
        yield report
    finally:
        if bars:
            progress.stop()


def write_text(path: Path, text: str) -> None:
    """Write a file the user named; raises ConfigError when it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"cannot write {path}: {problem.strerror}") from problem
