"""`ask` and `chat`: questions about files, answered piece by piece as the model writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, MODEL_HELP, Load, loads_a_model

Longest = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")]
Seed = Annotated[int, typer.Option(help="Same seed, same answer.")]


@loads_a_model
def ask(
    files: Annotated[list[str] | None, typer.Argument(help="Pictures, recordings, videos, texts.")] = None,
    question: Annotated[str, typer.Argument(help="What you want to know.", show_default=False)] = "",
    model: MODEL = "mini",
    max_tokens: Longest = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    json: JSON = False,
    *,
    load: Load,
) -> None:
    """Ask one question about files: polymodal ask photo.jpg "What is this?"."""
    from polymodal.cli.output import print_json
    from polymodal.cli.perceive import all_media

    own, places = split_system(files or [])
    check_question(question)
    # Files are opened before the model is loaded: a wrong name costs a moment, not a minute.
    content = [*all_media(places), question]
    loaded = load(own or model)
    stream = loaded.stream(*content, max_tokens=max_tokens, temperature=temperature, seed=seed)
    say(stream, quiet=json)
    if json:
        print_json(as_dict(stream.reply))
    else:
        print(costs(stream.reply), file=sys.stderr)  # the answer alone goes on through a pipe


def as_dict(reply: Any) -> dict[str, Any]:
    """The stable keys of an answer in `ask --json` and `chat --json`."""
    return {
        "answer": reply.text,
        "model": reply.model,
        "tokens": reply.tokens,
        "seconds": {name: round(value, 4) for name, value in reply.seconds.items()},
        "finish": reply.finish,
    }


def costs(reply: Any) -> str:
    """What an answer took, in one line: tokens of each kind and seconds of each phase."""
    tokens = ", ".join(f"{count} {name}" for name, count in reply.tokens.items())
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in reply.seconds.items())
    return f"[{reply.model}; tokens: {tokens}; seconds: {seconds}]"


def split_system(files: list[str]) -> tuple[str | None, list[Path]]:
    """`ask ./my_system.py photo.jpg "..."`: a first file that is Python is the model, not something to look at."""
    if files and files[0].partition(":")[0].endswith(".py"):
        return files[0], [Path(name) for name in files[1:]]
    return None, [Path(name) for name in files]


def check_question(question: str) -> None:
    """Catch the two ways a question gets lost: nothing was asked, or the last file took its place."""
    from polymodal.errors import PromptError

    if not question.strip():
        raise PromptError('the question is empty; as in: polymodal ask photo.jpg "What is this?"')
    looks_like_a_path = len(question) < 256 and "\n" not in question
    if looks_like_a_path and Path(question).is_file():
        raise PromptError(f'{question} is a file and the question is missing; add it at the end: "What is this?"')


def say(stream: Any, quiet: bool = False) -> None:
    """Print the pieces of an answer as they come; with `quiet` only wait for its end."""
    for piece in stream:
        if not quiet:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if not quiet:
        sys.stdout.write("\n")


HELP = "Type a question. /file PATH shows the model a file with your next question, /new forgets, /quit ends."


@loads_a_model
def chat(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "mini",
    max_tokens: Longest = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    json: JSON = False,
    *,
    load: Load,
) -> None:
    """Talk with a model about files, turn after turn; --json prints one line for each answer."""
    from polymodal.cli.output import print_json
    from polymodal.errors import PolymodalError

    loaded = load(model)
    loaded.require("chat")
    if sys.stdin.isatty():
        typer.echo(HELP)
    turns: list[dict[str, Any]] = []
    waiting_files: list[Any] = []
    while (line := read_line()) is not None:
        try:
            if line.startswith("/"):
                if not command(line, turns, waiting_files):
                    return
                continue
            message = {"role": "user", "content": [*waiting_files, line]}
            waiting_files.clear()  # a file the model does not take goes with its turn, or every later turn would fail
            stream = loaded.stream([*turns, message], max_tokens=max_tokens, temperature=temperature, seed=seed)
            say(stream, quiet=json)
            if json:
                print_json(as_dict(stream.reply), lines=True)
            turns += [message, {"role": "assistant", "content": stream.reply.text}]
        except PolymodalError as mistake:
            # A wrong file or a full context costs this turn, not the conversation.
            print(f"polymodal: {mistake}", file=sys.stderr)


def read_line() -> str | None:
    """The next line that is not empty, or None at the end of the input."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        if line:
            return line


def command(line: str, turns: list[dict[str, Any]], files: list[Any]) -> bool:
    """Do what a line that starts with / says; False when it ends the conversation."""
    import polymodal as pm
    from polymodal.systems import unknown

    name, _, rest = line[1:].partition(" ")
    if name == "file":
        files.append(pm.media(rest.strip()))
    elif name == "new":
        turns.clear()
        files.clear()
    elif name == "help":
        typer.echo(HELP)
    elif name != "quit":
        raise unknown("command", name, ["file", "new", "help", "quit"])
    return name != "quit"
