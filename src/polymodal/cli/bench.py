"""`bench`: how fast a model reads, writes, looks and serves on this machine, beside what the machine allows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import Load, loads_a_model


@loads_a_model
def bench(
    model: Annotated[str, typer.Argument(metavar="[ID]", help="A model that chats; mini by default.")] = "mini",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, after one that warms up; medians are printed.")] = 3,
    tokens: Annotated[int, typer.Option(min=1, max=4096, help="Tokens of each answer.")] = 16,
    peer: Annotated[bool, typer.Option(help="Measure transformers and llama.cpp, too.")] = True,
    server: Annotated[bool, typer.Option(help="Measure the server under load, too.")] = True,
    json: JSON = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this file (.png, .svg).")] = None,
    *,
    load: Load,
) -> int:
    """Measure a model's speed: prefill, decoding, first token with a picture, many requests, the server; exit code 1
    where outputs that must be equal differ."""
    from polymodal.cli.output import console, print_json, waiting
    from polymodal.cli.speed import report
    from polymodal.cli.speed.suite import run_all

    if plot is not None:
        report.need_matplotlib()
    loaded = load(model)
    loaded.require("chat")
    with waiting(f"measuring {model}") as say:
        found = run_all(
            loaded, model, partial(load, model), rounds=rounds, tokens=tokens, peer=peer, server=server, say=say
        )
    if plot is not None:
        report.draw(found, plot)
    if json:
        print_json(found)
    else:
        console().print(report.table(found))
        for line in report.notes(found):
            typer.echo(line)
    return 1 if any(each["differ"] for each in found["measures"]) else 0
