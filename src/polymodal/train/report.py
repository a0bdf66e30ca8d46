"""What a run has to show: four plots as one PNG, and a page of HTML with them, the recipe and the data.

log.jsonl, run.json, skipped.jsonl  ->  plots.png (matplotlib), report.html (complete in itself, asks for nothing)
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymodal.html_page import escaped, page, picture_tag

STYLE = "body { max-width: 64rem; } img { width: 100%; background: #fff; border: 1px solid var(--line); }"
PLOTS = (
    ("loss", "loss", ("loss", "evaluation")),
    ("learning rate", "rate", ("lr",)),
    ("norm of the gradients", "norm", ("norm",)),
    ("throughput", "tokens / s", ("tokens/s",)),
)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, each with its throughput where tokens were counted."""
    path = folder / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in lines:
        if line.get("tokens") and line.get("seconds"):
            line["tokens/s"] = line["tokens"] / line["seconds"]
    return lines


def plots(log: Sequence[Mapping[str, Any]], title: str) -> bytes | None:
    """A PNG of loss, rate, gradient norm and throughput over the steps; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(11, 6.5))
    figure.suptitle(title, fontsize=12)
    # Margins are fixed: to find them costs as much as to draw.
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.08, top=0.89, wspace=0.24, hspace=0.32)
    for axes, (name, unit, keys) in zip(figure.subplots(2, 2).flat, PLOTS, strict=True):
        for key in keys:
            points = [(line["step"] + 1, line[key]) for line in log if line.get(key) is not None]
            if points:
                style = "o-" if key == "evaluation" else "-"
                axes.plot(*zip(*points, strict=True), style, label=key, linewidth=1.2, markersize=3)
                if len(points) >= 20 and key == "loss":
                    axes.plot(*zip(*averaged(points), strict=True), "-", label="mean of the last 10", linewidth=1.8)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.25)
        if len(axes.lines) > 1:
            axes.legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def averaged(points: Sequence[tuple[int, float]], width: int = 10) -> list[tuple[int, float]]:
    """The mean of each value and the `width` - 1 before it."""
    values = [value for _, value in points]
    means = (sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values)))
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]


def write_report(folder: Path) -> Path:
    """Write plots.png and report.html into a run's folder; returns the page."""
    record = json.loads((folder / "run.json").read_text())
    log = read_log(folder)
    picture = plots(log, f"{record['model']}: {record['stage']['name']}")
    if picture is not None:
        (folder / "plots.png").write_bytes(picture)
    skipped = folder / "skipped.jsonl"
    names = [json.loads(line)["sample"] for line in skipped.read_text().splitlines()] if skipped.exists() else []
    written = folder / "report.html"
    written.write_text(document(record, log, picture, names), encoding="utf-8")
    return written


def document(
    record: Mapping[str, Any], log: Sequence[Mapping[str, Any]], picture: bytes | None, skipped: Sequence[str]
) -> str:
    """The page.  record: run.json."""
    image = "<p>Plots need matplotlib: pip install 'polymodal[train]'.</p>"
    if picture is not None:
        image = picture_tag(picture, "png", "loss, rate, gradient norm and throughput")
    sections = [
        image,
        table("Result", summary(log)),
        table("Recipe", flat(record["stage"])),
        table("Options", flat(record["options"])),
        *(table(f"Data: {Path(each['path']).name}", list(each.items())) for each in record["data"]),
    ]
    if skipped:
        sections.append(table(f"{len(skipped)} damaged samples were left out", list(enumerate(skipped[:50], 1))))
    title = f"{record['model']}: {record['stage']['name']}"
    made = f"polymodal {record['polymodal']}, torch {record['torch']}, {record['started']}"
    return page(title, escaped(made), "".join(sections), STYLE)


def summary(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """What came of a run, in numbers."""
    if not log:
        return [("steps", 0)]
    seconds = sum(line["seconds"] for line in log)
    tokens = sum(line.get("tokens", 0) for line in log)
    rows: list[tuple[str, Any]] = [
        ("steps", len(log)),
        ("first and last loss", f"{log[0]['loss']:.4f} and {log[-1]['loss']:.4f}"),
        ("samples", f"{sum(line.get('samples', 0) for line in log):,}"),
        ("tokens, learned tokens", f"{tokens:,}, {sum(line.get('targets', 0) for line in log):,}"),
        ("seconds", f"{seconds:,.1f}"),
        ("tokens a second", f"{tokens / seconds:,.0f}"),
    ]
    limits = [line["limit"] for line in log if line.get("limit") is not None]
    if limits:
        rows.append(("share of the machine's matrix products (median)", f"{statistics.median(limits):.0%}"))
    scores = [(line["evaluation"], line["step"] + 1) for line in log if line.get("evaluation") is not None]
    if scores:
        rows.append(("lowest evaluation loss", f"{min(scores)[0]:.4f} at step {min(scores)[1]}"))
    return rows


def flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Dotted path and value of everything given in a record."""
    if isinstance(value, Mapping):
        return [row for key, each in value.items() for row in flat(each, f"{path}.{key}" if path else key)]
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return [row for i, each in enumerate(value) for row in flat(each, f"{path}[{i}]")]
    return [] if value in (None, "", [], {}) else [(path, value)]


def table(title: str, rows: Sequence[tuple[Any, Any]]) -> str:
    """A heading and a table of two columns."""
    lines = "".join(f"<tr><th>{escaped(str(a))}</th><td>{escaped(shown(b))}</td></tr>" for a, b in rows)
    return f"<h2>{escaped(title)}</h2><table>{lines}</table>\n"


def shown(value: Any) -> str:
    """A value in a cell."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
