"""Many inputs through one loaded model: results come one by one, and an input that fails costs itself alone.

inputs -> a few opened at once -> run(media) -> (input, result) ...    ->  JSON lines, or JSON, or words
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import typer

from polymodal.cli.inputs import Input
from polymodal.cli.output import print_json
from polymodal.errors import PolymodalError
from polymodal.printable import one_line

Run = Callable[[list[Any]], Sequence[Any]]
"""media -> a result for each"""


Step = Callable[[int, str], None]
"""called before each batch with how many inputs are done, and the name of the next"""


def unseen(done: int, name: str) -> None:
    """No progress is shown."""


def results(inputs: Sequence[Input], run: Run, batch_size: int = 1, step: Step = unseen) -> Iterator[tuple[Input, Any]]:
    """Each input with its result, or with the PolymodalError that it caused; that of a single input is raised."""
    for first in range(0, len(inputs), batch_size):
        some = inputs[first : first + batch_size]
        step(first, some[0].name)
        # Not decoded here: pictures of a whole batch would take gigabytes.
        outcomes: list[Any] = [attempt(each.record) for each in some]
        good = [index for index, each in enumerate(outcomes) if not isinstance(each, PolymodalError)]
        media = [outcomes[index] for index in good]
        done = attempt(partial(run, media)) if media else []
        if isinstance(done, PolymodalError):  # the fault of one of them, so each is tried alone
            done = [done] if len(media) == 1 else [one(run, each) for each in media]
        for index, result in zip(good, done, strict=True):
            outcomes[index] = result
        for each, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, PolymodalError) and len(inputs) == 1:
                raise outcome
            yield each, outcome


def attempt(work: Callable[[], Any]) -> Any:
    """What `work` returns, or the PolymodalError that it raises."""
    try:
        return work()
    except PolymodalError as problem:
        return problem


def one(run: Run, item: Any) -> Any:
    """The result of a single item, or the PolymodalError that it causes."""
    found = attempt(partial(run, [item]))
    return found if isinstance(found, PolymodalError) else found[0]


def complain_of(each: Input, problem: PolymodalError) -> None:
    """What is wrong with one input of many, in one line on stderr."""
    print(f"polymodal: {one_line(each.name)}: {' '.join(str(problem).split())}", file=sys.stderr)


def report(
    found: Iterator[tuple[Input, Any]],
    *,
    as_dict: Callable[[Any], dict[str, Any] | None],
    as_words: Callable[[str, Any], str | None],
    several: bool,
    json: bool,
    lines: bool,
) -> None:
    """Print results as they come: words, one JSON document (`json`), or a JSON line for each (`lines`).

    as_dict: a result -> its keys beside "file".  as_words: (name, result) -> its line.  Both may give None for what is
    printed by then.  several: whether the JSON document is a list; else it is the one result.  A failed input is a line
    on stderr, and a row with "error".  The command ends with exit code 2 when an input failed.
    """
    rows: list[dict[str, Any]] = []
    failed = 0
    row: dict[str, Any] | None
    for each, result in found:
        if isinstance(result, PolymodalError):
            failed += 1
            complain_of(each, result)
            row = {"file": each.name, "error": str(result)}
        else:
            told = as_dict(result)
            row = None if told is None else {"file": each.name, **told}
        if row is not None and lines:
            print_json(row, lines=True)
        elif row is not None and json:
            rows.append(row)
        elif not (json or lines or isinstance(result, PolymodalError)):
            name = one_line(each.name) if sys.stdout.isatty() else each.name
            if (words := as_words(name, result)) is not None:
                print(words, flush=True)
    if json and not lines:
        print_json(rows if several else rows[0])
    if failed:
        raise typer.Exit(2)
