"""`pull`: bring a model's weights onto this machine; afterwards everything works without a network."""

from __future__ import annotations

from pathlib import Path
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
        print_json({"model": model, "files": [{"path": str(p), "bytes": size_of(p)} for p in paths]})
    elif paths:
        typer.echo(f"{model} is here: {len(paths)} files, {human_bytes(sum(map(size_of, paths)))}")
    else:
        typer.echo(f"{model} needs no files")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a fetched repository."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)
