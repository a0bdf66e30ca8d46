"""What `bench` found, for people: a table, notes on what it is worth, a drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymodal.cli.output import human_bytes
from polymodal.errors import ConfigError, StorageError

BAR = 0.28
"""Height of a bar: three of them stand between two measures."""


def table(found: dict[str, Any]) -> Any:
    """A row for each measure."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("measure", "polymodal", "beside", "times as fast", "aim", "of the limit"):
        rows.add_column(title)
    for each in found["measures"]:
        for row in in_words(each):
            rows.add_row(*map(Text, row))
    return rows


def in_words(each: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each side that is not ours: (measure, our figure, theirs, how many times as fast, aim, share of the
    machine's limit); what is ours stands in the first."""
    if each["differ"]:
        return [(each["measure"], "no figure: outputs differ", ", ".join(each["differ"]), "", "", "")]
    (_, ours), *others = each["figures"].items()
    share = each["share_of_limit"]
    head = each["measure"], f"{number(ours)} {each['unit']}"
    limit = "" if share is None else f"{share:.0%}"
    rows = [(f"{name} {number(value)}", f"{each['times_as_fast_as'][name]:.2f} x", aim(each, name))
            for name, value in others]  # fmt: skip
    (first, *rest) = rows or [("", "", "")]
    return [(*head, *first, limit), *(("", "", *row, "") for row in rest)]


def aim(each: dict[str, Any], side: str) -> str:
    """2.8 x, missed"""
    if side not in each["aims"]:
        return ""
    return f"{each['aims'][side]:.2g} x, {'reached' if each['reached'][side] else 'missed'}"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def notes(found: dict[str, Any]) -> list[str]:
    """The machine, the memory, and what is missing or not to be trusted."""
    machine = found["machine"]
    lines = [
        f"machine: reads {machine['read_gb_s']:g} GB/s, {machine['gemm_gflop_s']:g} GFLOP/s in float32 with "
        f"{machine['threads']} of {machine['cores']:g} cores; medians of {found['rounds']} rounds"
    ]
    if found["resident_bytes"] is not None:
        weights, held, peak = (human_bytes(found[f"{name}_bytes"]) for name in ("weight", "resident", "peak"))
        lines.append(
            f"memory: weights {weights}; the process held {held} after one answer, {peak} at most, peers included"
        )
    if found["without_peer"]:
        lines.append(f"without a peer: {found['without_peer']}")
    if not machine["native_kernels"]:
        lines.append(
            "decoding runs on torch's operators: there is no C compiler, or POLYMODAL_NATIVE=0 (docs/speed.md)"
        )
    if machine["busy"]:
        lines.append(
            f"other work kept {machine['busy_cores']:.1f} cores busy: these figures are worth little; ratios of one "
            "line are worth more; measure again on a quiet machine"
        )
    return lines


def need_matplotlib() -> None:
    """Raises ConfigError without matplotlib, before anything was measured."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as missing:
        raise ConfigError("bench --plot needs the package matplotlib: pip install 'polymodal[train]'") from missing


def draw(found: dict[str, Any], path: Path) -> None:
    """How many times as fast as each peer, and as the limit.  Raises ConfigError, StorageError."""
    from matplotlib.figure import Figure

    rows = [each for each in found["measures"] if each["figures"]]
    figure = Figure(figsize=(9, 0.6 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    largest = {unit: max(max(e["figures"].values()) for e in rows if e["unit"] == unit) for unit in ("tokens/s", "s")}
    for place, each in enumerate(rows):
        for shift, (side, value) in enumerate(each["figures"].items()):
            axes.barh(place + BAR * shift, value / largest[each["unit"]], BAR, color=f"C{shift}")
            axes.text(
                value / largest[each["unit"]],
                place + BAR * shift,
                f" {side} {number(value)} {each['unit']}",
                va="center",
            )
    axes.set_yticks(range(len(rows)), [each["measure"] for each in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5)
    axes.set_xticks([])
    axes.set_title(f"{found['model']}, medians of {found['rounds']} rounds")
    try:
        figure.savefig(path)
    except ValueError as problem:
        raise ConfigError(f"--plot {path}: {problem}") from problem
    except OSError as problem:
        raise StorageError(f"cannot write {path}: {problem.strerror}") from problem
