"""`transcribe`, `classify` and `embed`: a recording's words, files' labels, files as numbers."""

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
    things: Annotated[
        list[str], typer.Argument(metavar="FILE... LABEL LABEL...", help="Pictures or recordings, then labels.")
    ],
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="A label; given so, every other word is a file.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Files looked at together.")] = 32,
    model: MODEL = "mini",
    json: JSON = False,
    *,
    load: Load,
) -> None:
    """Choose among labels you name; needs no training on them."""
    from polymodal.cli.output import print_json, waiting
    from polymodal.errors import ConfigError

    names, labels = (things, label) if label else files_and_labels(things)
    if len(labels) < 2:
        raise ConfigError(
            "classify needs at least two labels, as in: polymodal classify photo.jpg cat dog (or -l cat -l dog)"
        )
    media = all_media([Path(name) for name in names])
    loaded = load(model)
    with waiting(f"looking at {names[0] if len(names) == 1 else f'{len(names)} files'}"):
        results = loaded.classify(media, labels, batch_size=batch_size)
    if json:
        found = [
            {"file": name, "label": ranked[0].label, "labels": [as_dict(each) for each in ranked], "model": loaded.name}
            for name, ranked in zip(names, results, strict=True)
        ]
        print_json(found[0] if len(found) == 1 else found)
        return
    for name, ranked in zip(names, results, strict=True):
        if len(names) == 1:
            for each in ranked:
                typer.echo(f"{each.probability:7.1%}  {each.label}")
        else:
            typer.echo(f"{ranked[0].probability:7.1%}  {ranked[0].label}  {name}")


def as_dict(label: Any) -> dict[str, Any]:
    """The stable keys of a label in `classify --json`."""
    return {"label": label.label, "probability": label.probability}


def files_and_labels(things: list[str]) -> tuple[list[str], list[str]]:
    """The first word is a file, and so are those behind it that name one; the rest are labels."""
    count = next((i for i, name in enumerate(things) if i and not Path(name).is_file()), len(things))
    return things[:count], things[count:]


@loads_a_model
def embed(
    files: Files,
    model: MODEL = "mini",
    json: JSON = False,
    out: Annotated[Path | None, typer.Option(help="Write all vectors to this .npy file.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Files that go through the model together.")] = 32,
    *,
    load: Load,
) -> None:
    """Turn files into vectors; similar contents have a large dot product."""
    from polymodal.cli.output import console, print_json

    media = all_media(files)
    loaded = load(model)
    vectors = loaded.embed(media, batch_size=batch_size)
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
