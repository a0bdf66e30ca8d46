"""`pull`: download a model's weights; afterwards everything works without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.errors import ConfigError
from polymodal.files import read_json


def pull(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="An id, id:variant, owner/repository, kokoro (voices), or data:NAME; data: lists the sets.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Download nothing; read what is here (of MODEL, or everything) and compare hashes."
        ),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Only check that everything is downloaded.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Of data:NAME: the folder that is written, in place of one in the cache.")
    ] = None,
    json: JSON = False,
) -> None:
    """Download a model's weights, or prepare a set of data: resumes what was interrupted and verifies hashes.

    polymodal pull data:emoji --out emoji      polymodal pull data:
    """
    import polymodal as pm
    from polymodal.cli.output import counted, human_bytes, print_json, transfers

    if verify:
        return verify_cached(model, json)
    if model is None:
        raise ConfigError("pull: name a model, as in: polymodal pull mini; --verify checks all that was downloaded")
    if model.startswith("data:"):
        return print_sets(json) if model == "data:" else pull_set(model, out, offline, json)
    if out is not None:
        raise ConfigError("pull: --out is for data:NAME; weights lie in the cache folder, which POLYMODAL_HOME moves")
    with transfers() as report:
        paths = pm.pull(model, progress=report, offline=offline)
    if json:
        print_json({"model": model, "files": [{"path": str(p), "bytes": size_of(p)} for p in paths]})
    elif paths:
        typer.echo(f"{model} is downloaded: {counted(len(paths), 'file')}, {human_bytes(sum(map(size_of, paths)))}")
    else:
        typer.echo(f"{model} needs no files")


def print_sets(json: bool) -> None:
    """The sets that can be prepared: size of the download, licence, where those are that were."""
    import polymodal as pm
    from polymodal.cli.output import console, human_bytes, print_json

    found = pm.data_sets()
    if json:
        return print_json(found)
    from rich.table import Table

    table = Table("set", "what", "download", "licence", "evaluate with", box=None)
    for each in found:
        here = "here" if each["path"] else human_bytes(each["bytes"])
        table.add_row(each["name"], each["summary"], here, each["license"], ", ".join(each["tasks"]))
    console().print(table)


def pull_set(name: str, out: Path | None, offline: bool, json: bool) -> None:
    """Prepare a set and say what is in it, where it lies, and under which licence."""
    import polymodal as pm
    from polymodal.cli.output import print_json, transfers

    with transfers() as report:
        folder = pm.data_set(name, out=out, progress=report, offline=offline)
    held = read_json(folder / "manifest.json", error=ConfigError)
    if json:
        return print_json({"set": held["set"], "path": str(folder), "license": held["license"],
                           "counts": held["counts"], "left_out": held["left_out"]})  # fmt: skip
    counts = held["counts"]
    sides = ", ".join(f"{count:,} {side}" for side, count in counts[held["set"]].items())
    typer.echo(f"{name}: {sides}; {folder / 'train.jsonl'}")
    if len(counts) > 1:
        typer.echo(f"{len(counts) - 1} more tables, as {next(key for key in counts if key != held['set'])}/train.jsonl")
    for why, count in held["left_out"].items():
        typer.echo(f"left out: {count:,} {why}")
    typer.echo(f"licence: {held['license']}; see {folder / 'licenses'}")


def verify_cached(model: str | None, json: bool) -> None:
    """Read what was downloaded and name each file that is no longer as it was; exit code 1 when there is one."""
    import polymodal as pm
    from polymodal.cli.output import transfers
    from polymodal.data.sets.sums import check_sums
    from polymodal.weights.verified import ChangedFile, Verified, verify_cache, verify_files

    with transfers() as report:
        if model is None:
            found = verify_cache(report)
        else:
            try:
                paths = pm.pull(model, offline=True)
                if model.startswith("data:"):
                    return tell_verified(Verified(*check_sums(paths[0])), json)
            except ChangedFile as error:
                found = Verified(changed=[str(error)])
            else:
                files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
                found = verify_files([file for file in files if file.is_file()], report)
    tell_verified(found, json)


def tell_verified(found: Any, json: bool) -> None:
    """Print a `Verified`; exit code 1 where a file changed."""
    from polymodal.cli.output import counted, human_bytes, print_json

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
