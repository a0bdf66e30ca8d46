"""`classify`: labels of files, of many with one loaded model; and the options of commands that take many files."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, Load, loads_a_model

FILES_HELP = 'Files, folders, quoted patterns ("photos/*.jpg"), data: URLs; - is standard input.'
JSONL = Annotated[bool, typer.Option("--jsonl", help="Print a line of JSON for each file as soon as it is done.")]


@loads_a_model
def classify(
    things: Annotated[
        list[str], typer.Argument(metavar="FILE... LABEL LABEL...", help=f"{FILES_HELP} Then the labels.")
    ],
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="A label; with this option all other words are files.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Files per forward pass.")] = 32,
    model: MODEL = "mini",
    json: JSON = False,
    jsonl: JSONL = False,
    *,
    load: Load,
) -> None:
    """Zero-shot classification of files: the probability of each label that you name."""
    from polymodal.cli.inputs import expand, open_all, stands_for_several
    from polymodal.cli.many import report, results
    from polymodal.cli.output import progress
    from polymodal.cli.streams import as_text
    from polymodal.errors import ConfigError

    names, labels = (things, label) if label else files_and_labels(things)
    labels = [as_text(each) for each in labels]
    if len(labels) < 2:
        raise ConfigError(
            "classify needs at least two labels, as in: polymodal classify photo.jpg cat dog (or -l cat -l dog)"
        )
    inputs = expand(names)
    several = len(inputs) > 1 or any(map(stands_for_several, names))
    if len(inputs) == 1:
        open_all(inputs)
    loaded = load(model)
    with progress("classifying", len(inputs)) as step:
        report(
            results(inputs, lambda media: loaded.classify(media, labels), batch_size, step),
            as_dict=lambda ranked: {
                "label": ranked[0].label,
                "labels": [{"label": each.label, "probability": each.probability} for each in ranked],
                "model": loaded.name,
            },
            as_words=lambda name, ranked: best_of(name, ranked) if several else table_of(ranked),
            several=several,
            json=json,
            lines=jsonl,
        )


def best_of(name: str, ranked: list[Any]) -> str:
    """The likeliest label of a file, in one line."""
    return f"{ranked[0].probability:7.1%}  {ranked[0].label}  {name}"


def table_of(ranked: list[Any]) -> str:
    """All labels with their probabilities, a line each."""
    return "\n".join(f"{each.probability:7.1%}  {each.label}" for each in ranked)


def files_and_labels(things: list[str]) -> tuple[list[str], list[str]]:
    """The first word is a file, and so are those behind it that name one; the rest are labels."""
    from polymodal.cli.inputs import is_input

    count = next((i for i, name in enumerate(things) if i and not is_input(name)), len(things))
    return things[:count], things[count:]
