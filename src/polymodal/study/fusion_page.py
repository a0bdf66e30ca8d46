"""The page of the fusion study: plots, the table of what was measured, and a verdict on each claim of the survey.

fusion.json -> fusion.html, which asks for nothing outside (plots need matplotlib), and fusion.md, its tables; what is
said of speech is in speech_page.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.html_page import escaped, page
from polymodal.study import speech_page
from polymodal.study.page_parts import Rows, bars, cost_rows, curves, markdown_table, measured, picture_of, table
from polymodal.study.verdicts import percent

STYLE = """
body { max-width: 66rem; } img { width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
.claim { min-width: 12rem; overflow-wrap: normal; }
.verdict { white-space: nowrap; font-weight: 600; }
td:first-child { white-space: nowrap; } .confirmed { color: #1a7f37; } .refuted { color: #b42318; }
.undecided, .not { color: var(--soft); } h2 { margin-top: 2.2rem; }
"""
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
    sections = [warning, figure(study), results(study), speech_page.section(study), claims(study), method(study)]
    return page("Four types of fusion on equal data", note, "".join(sections), STYLE)


def figure(study: Study) -> str:
    """Accuracy by samples and by CPU seconds, and what each type costs."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "<p>Plots need matplotlib: pip install 'polymodal[train]'.</p>"
    drawn = Figure(figsize=(11, 7.2), layout="constrained")
    (samples, cpu), (trains, work) = drawn.subplots(2, 2)
    types = study["types"]
    curves(samples, cpu, types, "pictures", {"chance": 1 / study["names"]}, study["equal_cpu"])
    bars(trains, types, "numbers that learn, million", lambda each: each["trainable"] / 1e6)
    bars(work, types, "GFLOP to learn one sample", lambda each: each["operations"]["train"] / 1e9)
    return picture_of(drawn, "accuracy of the four types by samples and CPU seconds, and their cost")


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
        *cost_rows(types, "name"),
        ("numbers that speech would add", [f"{each['speech_parameters']:,}" for each in types]),
        ("learning rate", [f"{each['lr']:g}" for each in types]),
    ]  # fmt: skip


def results(study: Study) -> str:
    """One column a type."""
    names = [each["id"] for each in study["types"].values()]
    return f"<h2>What was measured</h2>{table(names, measurements(study))}"


def markdown(study: Study) -> str:
    """All tables for a page of text, with when and where they were measured."""
    names = [each["id"] for each in study["types"].values()]
    plan, seeds = study["plan"], ", ".join(map(str, study["seeds"]))
    lines = [
        f"{study['date']}, torch {study['torch']}, {study['machine']}, one thread, {plan['precision']}; seeds {seeds}; "
        f"{study['names']} names, {study['learned']:,} pictures learned from, {study['held_out']:,} held out, "
        f"{plan['steps'] * plan['batch']:,} samples a run; chance {100 / study['names']:.1f} %; ridge regression "
        f"from the features {100 * study['probes']['features']:.1f} %, "
        f"from the codes {100 * study['probes']['codes']:.1f} %.",
        "",
        *markdown_table(names, measurements(study)),
        "",
        *speech_page.markdown(study),
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
        f"<tr><td>{escaped(each['type'])}</td><td class='claim'>{escaped(each['claim'])}</td>"
        f"<td class='verdict {escaped(each['verdict'].split()[0])}'>{escaped(each['verdict'])}</td>"
        f"<td>{escaped(each['because'])}</td></tr>"
        for each in study["verdicts"]
    )
    head = "<tr><th>&nbsp;</th><th>claim of the survey</th><th>at this size</th><th>because</th></tr>"
    return f"<h2>The survey's claims</h2><table>{head}{rows}</table>\n"


def method(study: Study) -> str:
    """How it was measured, and what that cannot show."""
    probes, plan = study["probes"], study["plan"]
    precision = plan["precision"]
    backbone = "a decoder of two random blocks" if study["quick"] else "SmolLM2-135M-Instruct"
    encoder = "colours of the cells of a picture" if study["quick"] else "EfficientNet-Lite0 at five depths"
    lines = (
        f"Backbone: {backbone}, frozen in all four. Encoder: {encoder}, frozen and run once; four features a picture. "
        "So a type is what was added to the backbone, and nothing else learns.",
        f"Each run sees {plan['steps']} batches of {plan['batch']}, the same pictures in the same order for all types "
        "of a seed. A name is one token; it alone is learned. It counts as right when it is the likeliest of all names "
        f"of the study; chance is {100 / study['names']:.1f} %.",
        f"Time is CPU time of the process on one thread in {precision}, since the machine is shared with other work; "
        "it counts training alone. ± is the standard deviation over the seeds. A verdict on two types needs a "
        "difference larger than both deviations together.",
        f"Ridge regression names {100 * probes['features']:.1f} % from the features and {100 * probes['codes']:.1f} % "
        f"from the codes of mini-d ({plan['codes']} by k-means over the same features; no codec was trained). Its "
        "penalty is the best of three on the held-out pictures, so it is a bound, not a rival.",
        "What this cannot show: what the types reach when the backbone learns too, with more data, longer answers "
        "or several pictures a conversation. The published systems differ in all of these.",
    )  # fmt: skip
    return "<h2>How</h2>" + "".join(f"<p>{escaped(line)}</p>" for line in lines)
