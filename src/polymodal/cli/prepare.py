"""`prepare`: a list of samples becomes WebDataset shards, its pictures decoded once and made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.catalogue import JSON


def prepare(
    data: Annotated[Path, typer.Argument(help="A .jsonl, .json, .csv, .tsv or .parquet file that lists samples.")],
    out: Annotated[Path, typer.Option(help="The folder of the shards; shards that stand in it are kept.")],
    side: Annotated[
        int | None, typer.Option(min=1, help="Pixels of the shorter side of a picture at most; else as they are.")
    ] = None,
    shard: Annotated[int, typer.Option(min=1, help="Samples of one shard.")] = 1000,
    workers: Annotated[int, typer.Option(min=0, help="Processes, by Ray: of this machine, or of a cluster.")] = 0,
    media_root: Annotated[Path | None, typer.Option(help="What paths in the data are relative to.")] = None,
    json: JSON = False,
) -> None:
    """Pack a list and its media into shards that training reads: polymodal prepare a.jsonl --out shards --side 336"""
    import polymodal as pm
    from polymodal.cli.output import counted, human_bytes, print_json

    root = "" if media_root is None else str(media_root)
    options = pm.PrepareOptions(side=side, shard=shard, workers=workers, media_root=root)

    def done(count: int, total: int) -> None:
        typer.echo(f"shard {count} of {total}", err=True)

    made = pm.prepare(data, out, options, done)
    if json:
        return print_json(made)
    shards = made["shards"]
    samples, size = (sum(each[name] for each in shards) for name in ("samples", "bytes"))
    typer.echo(f"{counted(samples, 'sample')} in {counted(len(shards), 'shard')}, {human_bytes(size)}: {out}")
    left = [each for one in shards for each in one["skipped"]]
    if left:
        typer.echo(f"{counted(len(left), 'damaged sample')} left out, as {left[0]}", err=True)
