"""docs/catalogue.md: what is proved for each system, written from the results of a run and from nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polymodal.check.engine import PARTS, Result
from polymodal.systems import System

MARK = {True: "yes", False: "**no**", None: "?"}
NOTHING = ("no case generates", "no case compares")  # begins the reason why a question has no object


def page(systems: Sequence[System], results: Sequence[Result]) -> str:
    """The page: one table of all systems, then for each what stands behind its row."""
    lines = [
        "# The catalogue: what is proved",
        "",
        "Written by `polymodal check --all` from the run itself; `polymodal check ID` repeats one row. *yes*: seen in",
        "that run; **no**: failed in it; *?*: could not be checked (the reason stands below); -: nothing to ask.",
        "*build*: every published size has the published number of parameters. *keys*: every published name is used or",
        "dropped by name, every parameter filled. *parity*: outputs equal the oracle's, all weights random, at small",
        "size. *cache*: cached steps equal the full pass. *batch*: rows of a batch equal rows alone. *recipe*: each",
        "published stage trains at tiny size on real data. *headline*: what it is counted for was seen. Error: largest",
        "absolute one, float32, at most 1e-4. Lines: of the system's file.",
        "",
        f"{len(results)} systems. Oracles: {oracles(results)}.",
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
            f"| [{system.id}](#{anchor(system.id)}) | {'+'.join(system.fusion) or '-'} | {marks} | {shown} | "
            f"{file_lines(system)} | {oracle} |"
        )
    for system, result in zip(systems, results, strict=True):
        lines += ["", *details(system, result)]
    return "\n".join(lines) + "\n"


def mark(found: Result) -> str:
    """yes, no, unknown, or that there is nothing to ask."""
    return "-" if found["ok"] is None and str(found.get("why", "")).startswith(NOTHING) else MARK[found["ok"]]


def kind_of(oracle: str) -> str:
    """What sort of oracle one is: the library, official code, another package, or one put together."""
    if oracle.startswith("composite") or "joined" in oracle:
        return "composite"
    if oracle.startswith("transformers"):
        return "transformers"
    return "package" if oracle.startswith("pip ") else "official code"


def details(system: System, result: Result) -> list[str]:
    """What stands behind one row."""
    build, keys, recipe = result["build"], result["keys"], result["recipe"]
    lines = [
        f"## {system.id}",
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


def anchor(id: str) -> str:
    """How the page's own links name a heading."""
    return id.replace(".", "")


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
