"""`pull`: download a model's weights; afterwards everything works without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.catalogue import JSON
from polymodal.errors import ConfigError


def pull(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="An id, id:variant, owner/repository, or kokoro (voices).", show_default=False
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Download nothing; read what is here (of MODEL, or everything) and compare hashes."
        ),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Only check that everything is downloaded.")] = False,
    json: JSON = False,
) -> None:
    """Download a model's weights: resumes what was interrupted and verifies hashes; afterwards no network is needed."""
    import polymodal as pm
    from polymodal.cli.output import counted, human_bytes, print_json, transfers

    if verify:
        return verify_cached(model, json)
    if model is None:
        raise ConfigError("pull: name a model, as in: polymodal pull mini; --verify checks all that was downloaded")
    with transfers() as report:
        paths = pm.pull(model, progress=report, offline=offline)
    if json:
        print_json({"model": model, "files": [{"path": str(p), "bytes": size_of(p)} for p in paths]})
    elif paths:
        typer.echo(f"{model} is downloaded: {counted(len(paths), 'file')}, {human_bytes(sum(map(size_of, paths)))}")
    else:
        typer.echo(f"{model} needs no files")


def verify_cached(model: str | None, json: bool) -> None:
    """Read what was downloaded and name each file that is no longer as it was; exit code 1 when there is one."""
    import polymodal as pm
    from polymodal.cli.output import counted, human_bytes, print_json, transfers
    from polymodal.weights.verified import ChangedFile, Verified, verify_cache, verify_files

    with transfers() as report:
        if model is None:
            found = verify_cache(report)
        else:
            try:
                paths = pm.pull(model, offline=True)
            except ChangedFile as error:
                found = Verified(changed=[str(error)])
            else:
                files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
                found = verify_files([file for file in files if file.is_file()], report)
    if json:
        print_json({"files": found.files, "bytes": found.bytes, "changed": found.changed, "unknown": found.unknown})
    else:
        for line in found.changed:
            typer.echo(line)
        unknown = f"; of {counted(found.unknown, 'file')} no hash was noted" if found.unknown else ""
        changed = f"{len(found.changed)} changed" if found.changed else "all as downloaded"
        typer.echo(f"{counted(found.files, 'file')}, {human_bytes(found.bytes)}: {changed}{unknown}")
    if found.changed:
        raise typer.Exit(1)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a downloaded repository."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)
