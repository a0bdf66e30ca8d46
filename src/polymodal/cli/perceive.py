"""`transcribe`, `classify` and `embed`: a recording's words, a file's label, a file as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, Load, loads_a_model

Files = Annotated[list[Path], typer.Argument(help="One or more files.", show_default=False)]


@loads_a_model
def transcribe(files: Files, model: MODEL = "mini", json: JSON = False, *, load: Load) -> None:
    """Write down what is said in recordings."""
    from polymodal.cli.output import print_json, waiting

    media = all_media(files)
    loaded = load(model)
    results = []
    for path, item in zip(files, media, strict=True):
        with waiting(f"listening to {path.name}"):
            reply = loaded.transcribe(item)
        results.append({"file": str(path), "text": reply.text, "model": reply.model, "seconds": reply.seconds})
        if not json:
            typer.echo(reply.text if len(files) == 1 else f"{path}: {reply.text}")
    if json:
        print_json(results)


@loads_a_model
def classify(
    file: Annotated[Path, typer.Argument(help="A picture or recording.", show_default=False)],
    labels: Annotated[list[str], typer.Argument(help="Two or more labels.", show_default=False)],
    model: MODEL = "mini",
    json: JSON = False,
    *,
    load: Load,
) -> None:
    """Choose among labels you name; needs no training on them."""
    from polymodal.cli.output import print_json, waiting
    from polymodal.errors import ConfigError

    if len(labels) < 2:
        raise ConfigError("classify needs at least two labels, as in: polymodal classify photo.jpg cat dog")
    (item,) = all_media([file])
    loaded = load(model)
    with waiting(f"looking at {file.name}"):
        ranked = loaded.classify(item, labels)
    if json:
        choices = [{"label": each.label, "probability": each.probability} for each in ranked]
        print_json({"file": str(file), "label": ranked[0].label, "labels": choices, "model": loaded.name})
        return
    for each in ranked:
        typer.echo(f"{each.probability:7.1%}  {each.label}")


@loads_a_model
def embed(
    files: Files,
    model: MODEL = "mini",
    json: JSON = False,
    out: Annotated[Path | None, typer.Option(help="Write all vectors to this .npy file.")] = None,
    *,
    load: Load,
) -> None:
    """Turn files into vectors; similar contents have a large dot product."""
    from polymodal.cli.output import console, print_json

    media = all_media(files)
    loaded = load(model)
    vectors = loaded.embed(media)
    if out is not None:
        save_array(out, vectors)
    if json:
        rows = [{"file": str(path), "vector": row.tolist()} for path, row in zip(files, vectors, strict=True)]
        print_json({"model": loaded.name, "width": vectors.shape[1], "items": rows})
        return
    from rich.table import Table

    table = Table("file", "width", *(path.name for path in files), title="similarity")
    for path, row in zip(files, vectors @ vectors.T, strict=True):
        table.add_row(path.name, str(vectors.shape[1]), *(f"{float(value):.3f}" for value in row))
    console().print(table)


def all_media(files: list[Path]) -> list[Any]:
    """Every file as media, pictures decoded: a bad one is named before a model is loaded."""
    import polymodal as pm

    found = [pm.media(path) for path in files]
    for item in found:
        _ = getattr(item, "picture", None)
    return found


def save_array(path: Path, vectors: Any) -> None:
    """Write vectors [N, D] as .npy; raises ConfigError when the place cannot be written."""
    import numpy

    from polymodal.errors import ConfigError

    try:
        with path.open("wb") as file:
            numpy.save(file, vectors.numpy())
    except OSError as problem:
        raise ConfigError(f"cannot write {path}: {problem.strerror}") from problem
