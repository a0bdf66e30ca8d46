"""What `bench` found, for people: a table, notes on what it is worth, a drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymodal.cli.output import human_bytes
from polymodal.errors import ConfigError, StorageError


def table(found: dict[str, Any]) -> Any:
    """A row for each measure."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("measure", "polymodal", "beside", "of the limit"):
        rows.add_column(title)
    for each in found["measures"]:
        rows.add_row(*map(Text, in_words(each)))
    return rows


def in_words(each: dict[str, Any]) -> tuple[str, str, str, str]:
    """(measure, our figure, the others', share of the machine's limit)."""
    if each["differ"]:
        return each["measure"], "no figure: outputs differ", ", ".join(each["differ"]), ""
    ours, *others = each["figures"].items()
    beside = [f"{name} {number(value)}, {each['times_as_fast_as'][name]:.2f} x" for name, value in others]
    share = each["share_of_limit"]
    return (
        each["measure"],
        f"{number(ours[1])} {each['unit']}",
        "; ".join(beside),
        "" if share is None else f"{share:.0%}",
    )


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
        held, weights = human_bytes(found["resident_bytes"]), human_bytes(found["weight_bytes"])
        lines.append(f"memory: the process holds {held}, weights alone {weights}")
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
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    largest = {unit: max(max(e["figures"].values()) for e in rows if e["unit"] == unit) for unit in ("tokens/s", "s")}
    for place, each in enumerate(rows):
        for shift, (side, value) in enumerate(each["figures"].items()):
            axes.barh(place + 0.4 * shift, value / largest[each["unit"]], 0.4, color=f"C{shift}")
            axes.text(
                value / largest[each["unit"]],
                place + 0.4 * shift,
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
