"""What the tables and plots of the fusion study share: colours, curves, bars, cells."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polymodal.html_page import escaped, picture_tag

COLOURS = {"A": "#3b6fb6", "B": "#c8591b", "C": "#2c8a57", "D": "#7d4fa3", "A shared": "#8fb0dc"}
Types = Mapping[str, Mapping[str, Any]]
Rows = list[tuple[str, list[str]]]


def measured(value: Mapping[str, Any], digits: int = 1) -> str:
    """Mean and standard deviation over the seeds."""
    more = "" if value["deviation"] is None else f" ± {value['deviation']:.{digits}f}"
    return f"{value['mean']:,.{digits}f}{more}"


def cost_rows(types: Sequence[Mapping[str, Any]], does: str) -> Rows:
    """What pictures and speech have in common: numbers, operations, time and memory."""
    return [
        ("positions of a row", [str(each["positions"]) for each in types]),
        (f"GFLOP to {does}", [f"{each['operations']['forward'] / 1e9:.2f}" for each in types]),
        ("GFLOP to learn", [f"{each['operations']['train'] / 1e9:.2f}" for each in types]),
        ("CPU seconds of a run", [measured(each["cpu"]) for each in types]),
        ("tokens a CPU second", [measured(each["tokens_per_second"], 0) for each in types]),
        ("samples a CPU second", [measured(each["samples_per_second"]) for each in types]),
        ("peak memory of the process, MB", [measured(each["peak_mb"], 0) for each in types]),
    ]


def curves(samples: Any, cpu: Any, types: Types, what: str, lines: Mapping[str, float], equal: float) -> None:
    """Accuracy by samples and by CPU seconds; lines: levels to compare with, by name."""
    for letter, each in types.items():
        means = [100 * point["accuracy"]["mean"] for point in each["curve"]]
        spreads = [100 * (point["accuracy"]["deviation"] or 0) for point in each["curve"]]
        look = {"label": each["id"], "color": COLOURS[letter], "marker": "o", "markersize": 4, "capsize": 3}
        samples.errorbar([point["samples"] for point in each["curve"]], means, spreads, **look)
        cpu.errorbar([point["cpu"] for point in each["curve"]], means, spreads, **look)
    cpu.axvline(equal, color="#888", linewidth=1, linestyle=":")
    for axes, unit in ((samples, "samples"), (cpu, "CPU seconds of training")):
        for (name, level), style in zip(lines.items(), ("--", "-."), strict=False):
            axes.axhline(100 * level, color="#888", linewidth=1, linestyle=style, label=name)
        axes.set_xlabel(unit)
        axes.set_ylabel(f"held-out {what} named rightly, %")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    samples.legend(fontsize=8, loc="best")


def bars(axes: Any, types: Types, title: str, value: Callable[[Mapping[str, Any]], float]) -> None:
    """One bar a type, with its number."""
    names = [each["id"].replace(", ", "\n") for each in types.values()]
    heights = [value(each) for each in types.values()]
    drawn = axes.bar(names, heights, color=[COLOURS[letter] for letter in types])
    axes.bar_label(drawn, fmt="%.2f", fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.margins(y=0.15)


def picture_of(drawn: Any, says: str) -> str:
    """A figure as a tag of the page."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=110)
    return picture_tag(file.getvalue(), "png", says)


def table(names: Sequence[str], rows: Rows) -> str:
    """HTML, one column a type."""
    head = "".join(f"<th>{escaped(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{escaped(name)}</th>{''.join(f'<td>{escaped(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>\n"


def markdown_table(names: Sequence[str], rows: Rows) -> list[str]:
    """Lines of the same as text."""
    return [
        f"| | {' | '.join(names)} |",
        f"|---{'|---' * len(names)}|",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows),
    ]
