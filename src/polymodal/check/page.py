"""docs/catalogue.md and docs/systems/<id>.md: what is proved, written from the results of a run and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polymodal.check.columns import PARTS, kind_of, nothing_to_ask
from polymodal.check.engine import Result
from polymodal.systems import System

DETAILS = "systems"
MARK = {True: "yes", False: "**no**", None: "?"}
LEGEND = (
    "| column | asks |",
    "|---|---|",
    "| build | every published size has the published number of parameters |",
    "| keys | every published tensor name is used or dropped by name, and every parameter is filled |",
    "| parity | outputs equal the oracle's at small size, with every parameter random; of an agent: "
    "recorded outputs of "
    "planners are read as the official code reads them |",
    "| cache | steps with a cache equal the pass over the whole row |",
    "| batch | rows of a batch equal rows alone |",
    "| recipe | each published stage trains at tiny size on real data |",
    "| headline | what the system is known for was seen |",
    "| error | the largest absolute error of parity, float32; at most 1e-4 |",
    "| lines | of the system's record |",
    "| oracle | what outputs are compared with: `transformers`, official code, another package, a composite of library "
    "classes joined as the official code joins them, or a paper's formulas where nothing was released |",
    "",
    "*yes*: seen in that run; **no**: failed in it; *?*: could not be checked; -: nothing to ask.",
)


def pages(systems: Sequence[System], results: Sequence[Result], folder: str = DETAILS) -> dict[str, str]:
    """Name of each page below the table's own folder ("" for the table itself) -> its text.

    systems, results: in the same order.  folder: where the pages of single systems lie, seen from the table.
    """
    lines = [
        "# The catalogue: what is proved",
        "",
        f"{len(results)} systems, written by `polymodal check --all` from the run itself. `polymodal check ID` repeats",
        "one row; its name leads to the numbers behind it.",
        "",
        "![The map of the systems: modules, types of fusion, lines of work over the years](map.svg)",
        "",
        "| system | fusion | " + " | ".join(PARTS) + " | error | lines | oracle |",
        "|---|---|" + "---|" * len(PARTS) + "---|---|---|",
    ]
    for system, result in zip(systems, results, strict=True):
        marks = " | ".join(mark(result[part]) for part in PARTS)
        error = result["parity"].get("max_abs_error")
        shown = "" if error is None else f"{error:.1e}"
        oracle = kind_of(result["parity"].get("oracle", ""))
        lines.append(
            f"| [{system.id}]({folder}/{system.id}.md) | {'+'.join(system.fusion) or '-'} | {marks} | {shown} | "
            f"{file_lines(system)} | {oracle} |"
        )
    lines += ["", f"Oracles: {oracles(results)}.", "", *LEGEND, *exceptions(systems, results)]
    written = {"": "\n".join(lines) + "\n"}
    for system, result in zip(systems, results, strict=True):
        written[f"{folder}/{system.id}.md"] = "\n".join(details(system, result)) + "\n"
    return written


def exceptions(systems: Sequence[System], results: Sequence[Result]) -> list[str]:
    """What is not proved, by system: its exceptions, and what could not be checked."""
    lines = []
    for system, result in zip(systems, results, strict=True):
        unknown = [part for part in PARTS if mark(result[part]) == MARK[None]]
        found = [f"{part} not checked: {result[part].get('why', '')}" for part in unknown]
        lines += [f"- {system.id}: {each}" for each in (*result.get("exceptions", ()), *found)]
    return ["", "## Exceptions", "", *lines] if lines else []


def mark(found: Result) -> str:
    """yes, no, unknown, or that there is nothing to ask."""
    return "-" if nothing_to_ask(found) else MARK[found["ok"]]


def details(system: System, result: Result) -> list[str]:
    """What stands behind one row."""
    build, keys, recipe = result["build"], result["keys"], result["recipe"]
    lines = [
        f"# {system.id}",
        "",
        f"{', '.join(system.aliases)} ({system.year}, {system.reference}): {system.headline}.",
    ]
    lines += ["", f"- oracle: {result['parity'].get('oracle', 'none')}"]
    for row in build.get("variants", ()):
        dropped = f" and {row['dropped']:,} dropped by name" if row["dropped"] else ""
        lines.append(f"- {row['variant']}: {row['parameters']:,} parameters{dropped}; published {row['published']:,}")
    for row in keys.get("variants", ()):
        numbers = f"{row['used']} used, {row['dropped']} dropped, {row['new']} new"
        lines.append(f"- names of {row['variant']}: {numbers} ({row['source']})")
    for case in result["parity"].get("cases", ()):
        ids = {True: ", 16 greedy ids equal", False: ", **greedy ids differ**", None: ""}[case["generated"]]
        lines.append(f"- case *{case['name']}*: error {case['max_abs_error']:.1e}{ids}")
    for stage in recipe.get("stages", ()):
        share = f"{100 * stage['trained_share']:.1f} % of the tiny model trains"
        lines.append(f"- stage *{stage['name']}*: loss {stage['first_loss']:.3f} -> {stage['last_loss']:.3f}, {share}")
    if result["headline"].get("evidence"):
        lines.append(f"- headline: {result['headline']['evidence']}")
    lines += [f"- {part}: {result[part]['why']}" for part in PARTS if result[part].get("why") and part != "headline"]
    return lines + [f"- exception: {each}" for each in result.get("exceptions", ())]


def oracles(results: Sequence[Result]) -> str:
    """How many systems each kind of oracle proves."""
    counts = Counter(kind_of(str(result["parity"].get("oracle", ""))) for result in results)
    return ", ".join(f"{kind} {count}" for kind, count in counts.most_common())


def file_lines(system: System) -> Any:
    """Lines of the system's record."""
    from polymodal import systems

    stem = system.id.replace("-", "_").replace(".", "_")
    entry = Path(systems.__path__[0]) / stem
    record = entry / "__init__.py" if entry.is_dir() else entry.with_suffix(".py")
    return len(record.read_text(encoding="utf-8").splitlines())
