"""The page of an evaluation: its numbers with their intervals, and the samples that went worst, with their pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polymodal.api import media
from polymodal.api.evaluation_record import save
from polymodal.errors import PolymodalError
from polymodal.evaluate.metric import Scored
from polymodal.evaluate.task import Task
from polymodal.html_page import escaped, page, picture_tag

if TYPE_CHECKING:
    from polymodal.api.evaluation import Evaluation

WORST = 24
SIDE = 480  # pixels of a picture's longer side in the page
STYLE = """
body { max-width: 70rem; }
ol { list-style: none; padding: 0; display: grid; gap: 1rem;
     grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); }
li { border: 1px solid var(--line); border-radius: 8px; padding: .75rem; background: var(--card);
     overflow-wrap: anywhere; }
img { width: 100%; max-height: 14rem; object-fit: contain; } dl { margin: .5rem 0 0; } dd { margin: 0 0 .4rem; }
dt { color: var(--soft); font-size: .85em; }
"""


def write_report(
    path: Path,
    task: Task,
    found: Evaluation,
    samples: Sequence[Scored],
    questions: Sequence[str],
    picture: Callable[[int], Any],
) -> None:
    """Write the page.  questions: what was asked of each sample, or ""; picture: of a sample, or None."""
    rows = "".join(
        f"<tr><th>{escaped(each.name)}</th><td>{each.value:.4g}</td><td>{each.low:.4g} to {each.high:.4g}</td></tr>"
        for each in found.metrics
    )
    numbers = f"<table><tr><th>metric</th><th>value</th><th>95 % interval</th></tr>{rows}</table>\n"
    scores = found.metrics[0].rows[:, 0] * (1 if task.metrics[0].best == "high" else -1)
    # A metric of pairs or classes has other rows than samples.
    order = np.argsort(scores, kind="stable")[:WORST].tolist() if len(scores) == len(samples) else []
    worst = "".join(
        card(task, samples[index], questions[index], partial(picture, index), float(found.metrics[0].rows[index, 0]))
        for index in order
    )
    skipped = "".join(f"<li>{escaped(each)}</li>" for each in found.skipped[:50])
    left_out = f"<h2>{len(found.skipped)} samples could not be read</h2><ol>{skipped}</ol>" if skipped else ""
    title = f"{found.model}: {task.name}"
    note = escaped(f"{task.summary}; {found.n} samples")
    body = f"{numbers}<h2>The worst by {escaped(task.metrics[0].name)}</h2>\n<ol>{worst}</ol>\n{left_out}"
    save(path, page(title, note, body, STYLE))


def card(task: Task, sample: Scored, question: str, picture: Callable[[], Any], score: float) -> str:
    """One sample: its picture, what was asked, what came and what was right."""
    shown = [("asked", question)] if question else []
    shown.append(("given", sample.prediction))
    shown += [(field, sample.record[field]) for field in task.fields if field != "question"]
    lines = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(_short(value))}</dd>" for name, value in shown)
    return f"<li>{_thumbnail(picture)}<dl><dt>score</dt><dd>{score:.3g}</dd>{lines}</dl></li>\n"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 400 else f"{text[:400]} ..."


def _thumbnail(picture: Callable[[], Any]) -> str:
    try:
        found = picture()
        if found is None:
            return ""
        shown = media.image(found).picture.copy()
    except PolymodalError:
        return "cannot be read"
    shown.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    shown.save(data, "JPEG", quality=82)
    return picture_tag(data.getvalue(), "jpeg")
