"""The page of the fusion study: plots, the table of what was measured, and a verdict on each claim of the survey.

fusion.json -> fusion.html, which asks for nothing outside (plots need matplotlib), and fusion.md, its tables
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from polymodal.html_page import escaped, page, picture_tag
from polymodal.study.verdicts import percent

STYLE = """
body { max-width: 66rem; } img { width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
.verdict { white-space: nowrap; font-weight: 600; } .confirmed { color: #1a7f37; } .refuted { color: #b42318; }
.undecided, .not { color: var(--soft); } h2 { margin-top: 2.2rem; }
"""
COLOURS = {"A": "#3b6fb6", "B": "#c8591b", "C": "#2c8a57", "D": "#7d4fa3"}
Study = Mapping[str, Any]


def document(study: Study) -> str:
    """The whole page."""
    plan, count = study["plan"], len(study["seeds"])
    note = escaped(
        f"{study['names']} names, {study['learned']:,} pictures to learn from and {study['held_out']:,} held out; "
        f"{plan['steps'] * plan['batch']:,} samples a run, {count} seeds; {study['date']}, torch {study['torch']}, "
        f"{study['machine']}"
    )
    warning = (
        "<p><b>This is a trial at tiny size with random weights. It shows that the study runs, and says nothing about "
        "the types.</b></p>"
        if study["quick"]
        else ""
    )
    sections = [warning, figure(study), results(study), claims(study), method(study)]
    return page("Four types of fusion on equal data", note, "".join(sections), STYLE)


def figure(study: Study) -> str:
    """Accuracy by samples and by CPU seconds, and what each type costs."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "<p>Plots need matplotlib: pip install 'polymodal[train]'.</p>"
    drawn = Figure(figsize=(11, 7.2), layout="constrained")
    (samples, cpu), (trains, work) = drawn.subplots(2, 2)
    for letter, each in study["types"].items():
        means = [100 * point["accuracy"]["mean"] for point in each["curve"]]
        spreads = [100 * (point["accuracy"]["deviation"] or 0) for point in each["curve"]]
        look = {"label": each["id"], "color": COLOURS[letter], "marker": "o", "markersize": 4, "capsize": 3}
        samples.errorbar([point["samples"] for point in each["curve"]], means, spreads, **look)
        cpu.errorbar([point["cpu"] for point in each["curve"]], means, spreads, **look)
    cpu.axvline(study["equal_cpu"], color="#888", linewidth=1, linestyle=":")
    for axes, unit in ((samples, "samples"), (cpu, "CPU seconds of training")):
        axes.axhline(100 / study["names"], color="#888", linewidth=1, linestyle="--", label="chance")
        axes.set_xlabel(unit)
        axes.set_ylabel("held-out pictures named rightly, %")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    samples.legend(fontsize=8)
    bars(trains, study, "numbers that learn, million", lambda each: each["trainable"] / 1e6)
    bars(work, study, "GFLOP to learn one sample", lambda each: each["operations"]["train"] / 1e9)
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=110)
    return picture_tag(file.getvalue(), "png", "accuracy of the four types by samples and CPU seconds, and their cost")


def bars(axes: Any, study: Study, title: str, value: Any) -> None:
    """One bar a type, with its number."""
    heights = [value(each) for each in study["types"].values()]
    drawn = axes.bar([each["id"] for each in study["types"].values()], heights, color=list(COLOURS.values()))
    axes.bar_label(drawn, fmt="%.2f", fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.margins(y=0.15)


def measured(value: Mapping[str, Any], digits: int = 1) -> str:
    """Mean and standard deviation over the seeds."""
    more = "" if value["deviation"] is None else f" ± {value['deviation']:.{digits}f}"
    return f"{value['mean']:,.{digits}f}{more}"


Rows = list[tuple[str, list[str]]]


def measurements(study: Study) -> Rows:
    """What was measured, in words: a name, and a cell a type."""
    types = list(study["types"].values())
    return [
        ("how a picture enters", [each["name"] for each in types]),
        ("named rightly after equal samples", [percent(each["accuracy"]) for each in types]),
        (f"named rightly after {study['equal_cpu']:.0f} CPU seconds",
         [percent(each["equal_cpu_accuracy"]) for each in types]),
        ("loss of the name, nats", [measured(each["loss"], 2) for each in types]),
        ("numbers that learn", [f"{each['trainable']:,}" for each in types]),
        ("share of all parameters", [f"{100 * each['trainable'] / each['parameters']:.2f} %" for each in types]),
        ("positions of a row", [str(each["positions"]) for each in types]),
        ("GFLOP to name", [f"{each['operations']['forward'] / 1e9:.2f}" for each in types]),
        ("GFLOP to learn", [f"{each['operations']['train'] / 1e9:.2f}" for each in types]),
        ("CPU seconds of a run", [measured(each["cpu"]) for each in types]),
        ("tokens a CPU second", [measured(each["tokens_per_second"], 0) for each in types]),
        ("samples a CPU second", [measured(each["samples_per_second"]) for each in types]),
        ("peak memory of the process, MB", [measured(each["peak_mb"], 0) for each in types]),
        ("numbers that speech would add", [f"{each['speech_parameters']:,}" for each in types]),
        ("learning rate", [f"{each['lr']:g}" for each in types]),
    ]  # fmt: skip


def results(study: Study) -> str:
    """One column a type."""
    head = "".join(f"<th>{escaped(each['id'])}</th>" for each in study["types"].values())
    body = "".join(
        f"<tr><th>{escaped(name)}</th>{''.join(f'<td>{escaped(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in measurements(study)
    )
    return f"<h2>What was measured</h2><table><tr><th></th>{head}</tr>{body}</table>\n"


def markdown(study: Study) -> str:
    """Both tables for a page of text, with when and where they were measured."""
    names = [each["id"] for each in study["types"].values()]
    plan, seeds = study["plan"], ", ".join(map(str, study["seeds"]))
    lines = [
        f"{study['date']}, torch {study['torch']}, {study['machine']}, one thread; seeds {seeds}; "
        f"{study['names']} names, {study['learned']:,} pictures learned from, {study['held_out']:,} held out, "
        f"{plan['steps'] * plan['batch']:,} samples a run; chance {100 / study['names']:.1f} %; ridge regression "
        f"from the features {100 * study['probes']['features']:.1f} %, "
        f"from the codes {100 * study['probes']['codes']:.1f} %.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---{'|---' * len(names)}|",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in measurements(study)),
        "",
    ]
    if study["verdicts"]:
        lines += ["| type | claim of the survey | at this size | because |", "|---|---|---|---|"]
        lines += [f"| {each['type']} | {each['claim']} | **{each['verdict']}** | {each['because']} |"
                  for each in study["verdicts"]]  # fmt: skip
    return "\n".join(lines) + "\n"


def claims(study: Study) -> str:
    """The survey's claims with their verdicts; none of a trial."""
    if not study["verdicts"]:
        return ""
    rows = "".join(
        f"<tr><td>{escaped(each['type'])}</td><td>{escaped(each['claim'])}</td>"
        f"<td class='verdict {escaped(each['verdict'].split()[0])}'>{escaped(each['verdict'])}</td>"
        f"<td>{escaped(each['because'])}</td></tr>"
        for each in study["verdicts"]
    )
    head = "<tr><th>type</th><th>claim of the survey</th><th>at this size</th><th>because</th></tr>"
    return f"<h2>The survey's claims</h2><table>{head}{rows}</table>\n"


def method(study: Study) -> str:
    """How it was measured, and what that cannot show."""
    probes, plan = study["probes"], study["plan"]
    backbone = "a decoder of two random blocks" if study["quick"] else "SmolLM2-135M-Instruct"
    encoder = "colours of the cells of a picture" if study["quick"] else "EfficientNet-Lite0 at five depths"
    lines = (
        f"Backbone: {backbone}, frozen in all four. Encoder: {encoder}, frozen and run once; four features a picture. "
        "So a type is what was added to the backbone, and nothing else learns.",
        f"Each run sees {plan['steps']} batches of {plan['batch']}, the same pictures in the same order for all types "
        "of a seed. A name is one token; it alone is learned. It counts as right when it is the likeliest of all names "
        f"of the study; chance is {100 / study['names']:.1f} %.",
        "Time is CPU time of the process on one thread, since the machine is shared with other work; it counts "
        "training alone. ± is the standard deviation over the seeds. A verdict on two types needs a difference larger "
        "than both deviations together.",
        f"Ridge regression names {100 * probes['features']:.1f} % from the features and {100 * probes['codes']:.1f} % "
        f"from the codes of mini-d ({plan['codes']} by k-means over the same features; no codec was trained). Its "
        "penalty is the best of three on the held-out pictures, so it is a bound, not a rival.",
        "What this cannot show: what the types reach when the backbone learns too, with more data, longer answers "
        "or several pictures a conversation. The published systems differ in all of these.",
    )  # fmt: skip
    return "<h2>How</h2>" + "".join(f"<p>{escaped(line)}</p>" for line in lines)
