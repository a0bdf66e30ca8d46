"""`serve`: models behind OpenAI's interface, for this machine alone unless you say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.model import MODEL_HELP, Load, loads_a_model

LOCAL = ("127.0.0.1", "localhost", "::1")


@loads_a_model
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...", help=f"{MODEL_HELP} Several may be named, kokoro (voices) among them; mini by default."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs --api-key-file.")
    ] = LOCAL[0],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="A file with an API key on each line (or sha256:HEX of one); requests need one of them."),
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="No API key: let anybody in who can reach the port.")
    ] = False,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="An origin (https://example.org) whose pages may use the server (CORS); repeat it for more."),
    ] = None,
    media_host: Annotated[
        list[str] | None,
        typer.Option(help="A host from which media may be fetched over https; none by default; repeat it for more."),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Requests that are answered at once (the size of the running batch).")
    ] = 16,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer that a request may ask for, in tokens.")
    ] = 4096,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the decoding step (torch.compile; CUDA graphs on CUDA)."),
    ] = False,
    ray: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="N replicas through Ray Serve, on this machine or a Ray cluster's."),
    ] = None,
    *,
    load: Load,
) -> None:
    """Serve models over HTTP: OpenAI's API, and a chat page for the browser."""
    from polymodal.cli.server import run, settings

    chosen = settings(host, api_key_file, without_key, origin or [], media_host or [], rows, max_tokens, compile)
    run(models or ["mini"], load, chosen, host, port, ray)
