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
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from polymodal.cli import (
    act,
    answer,
    bench,
    catalogue,
    chat,
    check,
    draw,
    embed,
    evaluate,
    fetch,
    health,
    new,
    perceive,
    predict,
    prepare,
    say,
    search,
    serve,
    study,
    train,
    transcribe,
    turn,
)
from polymodal.cli.cleaning import cleaned_streams, own_streams
from polymodal.errors import PolymodalError, StorageError, Unreachable

TRACE = "POLYMODAL_TRACE"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


def without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """A flag takes no value: its row in the help names no type."""
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters


class Command(TyperCommand):
    """A command whose page of help keeps its colours: nothing in it is from a stranger."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_types_of_flags(super().get_params(ctx))

    def collect_usage_pieces(self, context: Any) -> list[str]:
        """[OPTIONS] and the arguments: NAME, in brackets where it may be left out."""
        pieces = [self.options_metavar or ""]
        for each in self.params:
            if each.param_type_name == "argument":
                name = each.metavar or str(each.name).upper()
                pieces.append(name if each.required else f"[{name}]")
        return pieces

    def format_help(self, context: Any, formatter: Any) -> None:
        with own_streams():
            super().format_help(context, formatter)


class Commands(TyperGroup):
    """All commands; the page of help as of each."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_types_of_flags(super().get_params(ctx))

    def format_help(self, context: Any, formatter: Any) -> None:
        with own_streams():
            super().format_help(context, formatter)


app = typer.Typer(
    name="polymodal",
    cls=Commands,
    help="Multimodal models: ask them about pictures and sound; inspect, verify, train and serve them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (answer.ask, chat.chat, transcribe.transcribe, say.say, draw.draw, turn.turn, perceive.classify,
            embed.embed, search.search, act.act,
            catalogue.systems, catalogue.show, check.check, new.new, fetch.pull, health.doctor,
            prepare.prepare, train.train, train.export, evaluate.evaluate, predict.predict, bench.bench,
            serve.serve)  # fmt: skip
for each in COMMANDS:
    app.command(cls=Command)(each)
studies = typer.Typer(cls=Commands, help="Claims of the survey, measured on real data.", no_args_is_help=True)
for each in study.STUDIES:
    studies.command(cls=Command)(each)
app.add_typer(studies, name="study")


def show_version(asked: bool) -> None:
    if asked:
        from polymodal import __version__

        typer.echo(f"polymodal {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=show_version, is_eager=True),
) -> None:
    """Ask models about pictures and sound; inspect, verify, train and serve them."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; every error is printed as one line."""
    with cleaned_streams(), warnings.catch_warnings():
        said: set[str] = set()
        warnings.showwarning = partial(note, said=said)
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
        return (
            complain(usage(problem, message), 2) if message and not type(problem).__name__.startswith("NoArgs") else 2
        )
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


def usage(problem: Exception, message: str) -> str:
    """A mistake on the command line, with the page of help that has the right words."""
    context = getattr(problem, "ctx", None)
    command = "polymodal" if context is None else context.command_path
    message = f"{message[0].lower()}{message[1:].rstrip('.')}".replace("Input should be ", "expected ")
    return f"{message} See {command} --help" if message.endswith("?") else f"{message}; see {command} --help"


def note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
    *,
    said: set[str],
) -> None:
    """Show a warning: ours as one line, unless it was `said` in this run; another library's as Python does."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        if str(message) not in said:
            print(f"polymodal: note: {' '.join(str(message).split())}", file=sys.stderr)
        said.add(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=file or sys.stderr, end="")


def complain(message: str, code: int) -> int:
    """Print one line on stderr and return the exit code."""
    print(f"polymodal: {' '.join(message.split())}", file=sys.stderr)
    return code
