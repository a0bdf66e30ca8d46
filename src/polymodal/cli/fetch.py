"""`pull`: bring a model's weights onto this machine; afterwards everything works without a network."""

from __future__ import annotations

from typing import Annotated

import typer

from polymodal.cli.catalogue import JSON


def pull(
    model: Annotated[str, typer.Argument(help="An id or id:variant.", show_default=False)],
    offline: Annotated[bool, typer.Option("--offline", help="Only check that all is here.")] = False,
    json: JSON = False,
) -> None:
    """Fetch a model's weights, with progress; goes on where a broken transfer stopped, checks every hash."""
    import polymodal as pm
    from polymodal.cli.output import human_bytes, print_json, transfers

    with transfers() as report:
        paths = pm.pull(model, progress=report, offline=offline)
    if json:
        print_json({"model": model, "files": [{"path": str(p), "bytes": p.stat().st_size} for p in paths]})
    elif paths:
        total = human_bytes(sum(path.stat().st_size for path in paths))
        typer.echo(f"{model} is here: {len(paths)} files, {total}")
    else:
        typer.echo(f"{model} needs no files")
