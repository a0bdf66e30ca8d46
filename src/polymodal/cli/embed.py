"""`embed`: files and texts as vectors of one space, printed, or written to a .npy, .jsonl or .parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, Load, loads_a_model
from polymodal.cli.perceive import FILES_HELP, JSONL

if TYPE_CHECKING:
    from polymodal.cli.vectors import Row

LARGEST_TABLE = 8
"""Items up to which all similarities fit on a screen; of more, only the nearest is shown."""


@loads_a_model
def embed(
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE...", help=FILES_HELP, show_default=False)] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="A text to embed; repeat it for more.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the vectors to X.npy (with X.names.json), X.jsonl or X.parquet.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Files per forward pass.")] = 32,
    model: MODEL = "mini",
    json: JSON = False,
    jsonl: JSONL = False,
    *,
    load: Load,
) -> None:
    """Embed files and texts in one space, as vectors of length 1: cosine similarity is the dot product."""
    from polymodal.cli import vectors
    from polymodal.cli.inputs import expand, open_all
    from polymodal.cli.output import print_json
    from polymodal.cli.streams import as_text
    from polymodal.errors import ConfigError

    write = None if out is None else vectors.writer(out)
    inputs = expand(files or [])
    if not inputs and not text:
        raise ConfigError("embed needs files or texts, as in: polymodal embed photo.jpg --text 'a cat on a sofa'")
    if len(inputs) == 1:
        open_all(inputs)
    loaded = load(model)
    rows, failed = embedded(loaded, inputs, [as_text(each) for each in text or []], batch_size)
    if write is not None:
        write(rows)
    if jsonl:
        for row in rows:
            print_json({**row.key(), "vector": row.vector.tolist()}, lines=True)
    elif json:
        items = [{**row.key(), "vector": row.vector.tolist()} for row in rows]
        print_json({"model": loaded.name, "width": len(rows[0].vector) if rows else 0, "items": items})
    elif out is not None:
        typer.echo(f"wrote {vectors.described(out, rows)}")
    elif rows:
        show(rows)
    if failed:
        raise typer.Exit(2)


def embedded(loaded: Any, inputs: Any, texts: list[str], batch_size: int) -> tuple[list[Row], bool]:
    """A row for each input and text that could be embedded, and whether an input could not."""
    import polymodal as pm
    from polymodal.cli.many import complain_of, results
    from polymodal.cli.output import progress
    from polymodal.cli.vectors import Row
    from polymodal.errors import PolymodalError

    rows, failed = [], False
    with progress("embedding", len(inputs)) as step:
        for each, vector in results(inputs, loaded.embed, batch_size, step):
            if isinstance(vector, PolymodalError):
                failed = True
                complain_of(each, vector)
            else:
                rows.append(Row(kind="file", name=each.name, vector=vector.numpy()))
    if texts:
        found = loaded.embed([pm.text(each) for each in texts], batch_size=batch_size).numpy()
        rows += [Row(kind="text", name=name, vector=vector) for name, vector in zip(texts, found, strict=True)]
    return rows, failed


def show(rows: list[Row]) -> None:
    """How similar the items are: all pairs of a few, the nearest of each of many; of one, that there is a vector."""
    import numpy
    from rich.table import Table
    from rich.text import Text

    from polymodal.cli.output import console

    if len(rows) == 1:
        typer.echo(f"1 vector of {len(rows[0].vector)} numbers; --json prints it, --out FILE.npy writes it")
        return
    names = [Path(row.name).name if row.kind == "file" else row.name for row in rows]
    similar = numpy.stack([row.vector for row in rows]) @ numpy.stack([row.vector for row in rows]).T
    width = len(rows[0].vector)
    if len(rows) <= LARGEST_TABLE:
        table = Table("", *names, title=f"similarity (dot product of {width} numbers)")
        for name, line in zip(names, similar, strict=True):
            table.add_row(Text(name), *(f"{float(value):.3f}" for value in line))
    else:
        numpy.fill_diagonal(similar, -numpy.inf)
        table = Table("", "nearest", "similarity", title=f"{len(rows)} vectors of {width} numbers; --out writes them")
        for name, line in zip(names, similar, strict=True):
            nearest = int(line.argmax())
            table.add_row(Text(name), Text(names[nearest]), f"{float(line[nearest]):.3f}")
    console().print(table)
