"""`serve`: models behind OpenAI's interface, for this machine alone unless you say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.model import Load, loads_a_model

LOCAL = ("127.0.0.1", "localhost", "::1")


@loads_a_model
def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Models to serve; mini by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's own need a key.")] = LOCAL[
        0
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file with one key a line (or sha256:HEX of it); requests need one of them.")
    ] = None,
    without_key: Annotated[bool, typer.Option("--without-key", help="Let anybody in who reaches the port.")] = False,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="An origin (https://example.org) whose pages may use the server; repeat it."),
    ] = None,
    media_host: Annotated[
        list[str] | None,
        typer.Option(help="A host from which media may be fetched by https; none by default; repeat it."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Answers that are written at once.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that a request may ask for.")] = 4096,
    *,
    load: Load,
) -> None:
    """Serve models over HTTP, as OpenAI's clients expect it."""
    from polymodal.cli.server import run, settings

    chosen = settings(host, api_key_file, without_key, origin or [], media_host or [], rows, max_tokens)
    run(models or ["mini"], load, chosen, host, port)
