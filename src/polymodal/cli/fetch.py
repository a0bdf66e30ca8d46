"""`pull`: download a model's weights; afterwards everything works without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.catalogue import JSON


def pull(
    model: Annotated[str, typer.Argument(help="An id, id:variant or owner/repository.", show_default=False)],
    offline: Annotated[bool, typer.Option("--offline", help="Only check that everything is downloaded.")] = False,
    json: JSON = False,
) -> None:
    """Download a model's weights: resumes interrupted downloads and verifies hashes; then no network is needed."""
    import polymodal as pm
    from polymodal.cli.output import counted, human_bytes, print_json, transfers

    with transfers() as report:
        paths = pm.pull(model, progress=report, offline=offline)
    if json:
        print_json({"model": model, "files": [{"path": str(p), "bytes": size_of(p)} for p in paths]})
    elif paths:
        typer.echo(f"{model} is downloaded: {counted(len(paths), 'file')}, {human_bytes(sum(map(size_of, paths)))}")
    else:
        typer.echo(f"{model} needs no files")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a downloaded repository."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)
