"""The list of commands, and what all commands share: one-line messages and the exit codes.

    0    done
    1    the machine, the network or polymodal is at fault: an unreachable hub, a full disk, too little memory, a defect
    2    the input is at fault: one line on stderr says what, and what to do
    130  interrupted with Ctrl-C

What a command needs is imported when it runs, so that `polymodal --help` does not wait for torch.
"""

import errno
import os
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from polymodal.cli import answer, bench, catalogue, chat, check, embed, fetch, health, new, perceive, serve, transcribe
from polymodal.cli.cleaning import cleaned_streams, own_streams
from polymodal.errors import PolymodalError, StorageError, Unreachable

TRACE = "POLYMODAL_TRACE"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


class Command(TyperCommand):
    """A command whose page of help keeps its colours: nothing in it is from a stranger."""

    def format_help(self, context: Any, formatter: Any) -> None:
        with own_streams():
            super().format_help(context, formatter)


class Commands(TyperGroup):
    """All commands; the page of help as of each."""

    def format_help(self, context: Any, formatter: Any) -> None:
        with own_streams():
            super().format_help(context, formatter)


app = typer.Typer(
    name="polymodal",
    cls=Commands,
    help="Ask models about pictures and sound; look at, pull and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (answer.ask, chat.chat, transcribe.transcribe, perceive.classify, embed.embed, catalogue.systems,
            catalogue.show, check.check, new.new, fetch.pull, health.doctor, bench.bench, serve.serve)  # fmt: skip
for each in COMMANDS:
    app.command(cls=Command)(each)


def show_version(asked: bool) -> None:
    if asked:
        from polymodal import __version__

        typer.echo(f"polymodal {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=show_version, is_eager=True),
) -> None:
    """Ask models about pictures and sound; look at, pull and compare them."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; every error is printed as one line."""
    with cleaned_streams(), warnings.catch_warnings():
        warnings.showwarning = note
        return run_command(arguments)


def run_command(arguments: list[str]) -> int:
    """The exit code of one command, its errors printed."""
    try:
        code = app(arguments, prog_name="polymodal", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except PolymodalError as problem:
        return complain(str(problem), code_of(problem))
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except SystemExit as end:
        # The option parser exits by itself when the reader of our output has gone (`| head`).
        return end.code if isinstance(end.code, int) else 1
    except Exception as problem:
        return other(problem)


def code_of(problem: BaseException | None) -> int:
    """1 where the network or the disk is at fault, whatever it was written for; 2 for what the user gave."""
    while problem is not None:
        full = isinstance(problem, OSError) and problem.errno in FULL
        if full or isinstance(problem, Unreachable | StorageError):
            return 1
        problem = problem.__cause__
    return 2


def other(problem: Exception) -> int:
    """The exit code of any other error: wrong usage, a full disk, too little memory, a defect of ours."""
    describe = getattr(problem, "format_message", None)
    if describe is not None:
        # An empty message means "no command given": the parser has printed the help already.
        message = describe()
        return complain(message, 2) if message and not type(problem).__name__.startswith("NoArgs") else 2
    if isinstance(problem, typer.Abort) or type(problem).__name__ == "Abort":
        return complain("interrupted", 130)
    if os.environ.get(TRACE):
        raise problem
    if isinstance(problem, MemoryError) or any(sign in str(problem) for sign in OUT_OF_MEMORY):
        return complain("not enough memory on this machine; use a smaller model, a shorter text or less media", 1)
    if isinstance(problem, OSError) and problem.errno in FULL and problem.filename is None:
        return complain(f"cannot write the output: {problem.strerror}", 1)
    if isinstance(problem, OSError) and problem.filename is not None:
        return complain(f"{os.fsdecode(problem.filename)}: {problem.strerror}", 1)
    return complain(
        f"a defect of polymodal, please report it: {type(problem).__name__}: {problem} (set {TRACE}=1 for the trace)",
        1,
    )


def note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning: ours as one line, another library's as Python does."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        print(f"polymodal: note: {' '.join(str(message).split())}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=file or sys.stderr, end="")


def complain(message: str, code: int) -> int:
    """Print one line on stderr and return the exit code."""
    print(f"polymodal: {' '.join(message.split())}", file=sys.stderr)
    return code
