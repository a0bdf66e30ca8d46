"""The part of the fusion study's page that tells of speech as a second modality: plots, a table, how it was measured.

Nothing where speech was not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.html_page import escaped
from polymodal.study.page_parts import Rows, bars, cost_rows, curves, markdown_table, measured, picture_of, table
from polymodal.study.verdicts import percent

Study = Mapping[str, Any]


def section(study: Study) -> str:
    """Heading, plots, table and method."""
    speech = study["speech"]
    if not speech:
        return ""
    names = [each["id"] for each in speech["types"].values()]
    lines = "".join(f"<p>{escaped(line)}</p>" for line in method(study))
    shown = figure(speech) + table(names, measurements(speech))
    return f"<h2>Speech as a second modality</h2><p>{escaped(summary(study))}</p>{shown}{lines}"


def markdown(study: Study) -> list[str]:
    """The same table as lines of text."""
    speech = study["speech"]
    if not speech:
        return []
    names = [each["id"] for each in speech["types"].values()]
    return [summary(study), "", *markdown_table(names, measurements(speech)), ""]


def summary(study: Study) -> str:
    """The data and what is known of them."""
    speech, plan, probes = study["speech"], study["plan"], study["speech"]["probes"]
    return (
        f"Behind the pictures: {speech['learned']:,} recordings learned from, {speech['held_out']:,} held out, of "
        f"{len(speech['labels'])} labels ({', '.join(speech['labels'])}); {speech['segments']} features a recording; "
        f"{plan['steps'] * plan['batch']:,} samples a run; the most frequent label "
        f"{100 * speech['most_frequent']:.1f} %; ridge regression from the features "
        f"{100 * probes['features']:.1f} %, from the {speech['codes']} codes {100 * probes['codes']:.1f} %; "
        f"codes keep {100 * speech['kept_variance']:.0f} % of the features' variance."
    )


def figure(speech: Mapping[str, Any]) -> str:
    """Accuracy by samples and by CPU seconds, what speech adds, and the pictures before and after."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ""  # the plots of pictures say what is missing
    drawn = Figure(figsize=(11, 7.2), layout="constrained")
    (samples, cpu), (added, left) = drawn.subplots(2, 2)
    types = speech["types"]
    levels = {"most frequent label": speech["most_frequent"], "ridge regression": speech["probes"]["features"]}
    curves(samples, cpu, types, "recordings", levels, speech["equal_cpu"])
    bars(added, types, "numbers that learn speech, million", lambda each: each["trainable"] / 1e6)
    places = range(len(types))
    for shift, when, colour in ((-0.2, "before", "#b9c0c9"), (0.2, "after", "#4a5563")):
        values = [each[f"pictures_{when}"] for each in types.values()]
        drawn_bars = left.bar([place + shift for place in places], [100 * each["mean"] for each in values], 0.38,
                              yerr=[100 * (each["deviation"] or 0) for each in values], capsize=3, color=colour,
                              label=f"{when} speech")  # fmt: skip
        left.bar_label(drawn_bars, fmt="%.1f", fontsize=8)
    left.set_xticks(list(places), [each["id"].replace(", ", "\n") for each in types.values()])
    left.set_title("pictures named rightly, %", fontsize=10)
    left.legend(fontsize=8)
    left.margins(y=0.2)
    return picture_of(drawn, "accuracy on recordings by samples and CPU seconds, and on pictures before and after")


def measurements(speech: Mapping[str, Any]) -> Rows:
    """What was measured of speech, in words: a name, and a cell a type."""
    types = list(speech["types"].values())
    return [
        ("recordings named rightly after equal samples", [percent(each["accuracy"]) for each in types]),
        (f"recordings named rightly after {speech['equal_cpu']:.0f} CPU seconds",
         [percent(each["equal_cpu_accuracy"]) for each in types]),
        ("loss of the label, nats", [measured(each["loss"], 2) for each in types]),
        ("pictures named rightly before speech", [percent(each["pictures_before"]) for each in types]),
        ("pictures named rightly after it", [percent(each["pictures_after"]) for each in types]),
        ("loss of a picture's name before and after",
         [f"{each['picture_loss_before']['mean']:.2f}, {each['picture_loss_after']['mean']:.2f}" for each in types]),
        ("largest change of a picture's logits", [f"{each['picture_difference']:.2g}" for each in types]),
        ("largest change of the logits of a text", [f"{each['text_difference']:.2g}" for each in types]),
        ("that of a text to the bare backbone before", [f"{each['text_difference_before']:.2g}" for each in types]),
        ("numbers that speech adds", [f"{each['added']:,}" for each in types]),
        ("numbers that learn", [f"{each['trainable']:,}" for each in types]),
        *cost_rows(types, "hear"),
        ("learning rate", [f"{each['lr']:g}" for each in types]),
    ]  # fmt: skip


def method(study: Study) -> tuple[str, ...]:
    """How it was measured, and what that cannot show."""
    encoder = "mel bands of tones in noise" if study["quick"] else "Whisper tiny.en's encoder, frozen and run once"
    parts = study["speech"]["segments"]
    return (
        f"Encoder: {encoder}; a recording's real length in {parts} equal parts, of each the mean. A label counts by "
        "its first token, which no other begins with, and as right when it is the likeliest of all labels. Every fifth "
        "recording of a label is held out; who speaks is not known, so a voice may be on both sides.",
        "The model that has learned pictures gets what speech needs, and that alone learns: of mini-a a connector of "
        "two linears in front of the gated blocks that pictures use, of mini-b a connector and a branch of q, k, v and "
        "o, of mini-c a connector, of mini-d rows for codes. The column of the shared blocks lets mini-a's gated "
        "blocks learn on as well. A picture's logits are compared over the ids that were there before speech; the "
        "loss of mini-d's pictures changes with the rows of speech, which share the softmax.",
    )
