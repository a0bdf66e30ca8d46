"""How every command gets its model: the option that names it, and loading it with progress shown."""

from __future__ import annotations

from typing import Annotated, Any

import typer

MODEL_HELP = "An id, id:variant, a folder of weights, owner/repository of the hub or your own ./system.py."
MODEL = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]

ADAPTER = Annotated[
    list[str] | None, typer.Option("--adapter", help="A PEFT folder or repository to attach; may be given again.")
]


def open_model(address: str, adapters: list[str] | None = None) -> Any:
    """Load a model and its adapters, showing downloads as bars and the rest as a spinner; progress goes to stderr."""
    import polymodal as pm
    from polymodal.cli.output import transfers, waiting

    with transfers() as report:
        pm.pull(address, progress=report)
    with waiting(f"loading {address}"):
        return pm.load(address, adapters=adapters or ())
