"""The proof of agents: outputs of planners, read as the official code reads them, and real tools behind a scripted
planner.

check/fixtures/<stem>.json    recorded outputs with what the official parser, run elsewhere, gave for each; `source`
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polymodal as pm
from polymodal.check import real
from polymodal.check.fixture import FOLDER
from polymodal.check.record import TOLERANCE, Evidence, HeadlineResult, MissingData, RecordedCase
from polymodal.errors import WeightsError

Pair = tuple[Any, Any]
PICTURE = Path(__file__).parents[3] / "examples" / "cat.jpg"


def recorded(stem: str) -> dict[str, Any]:
    """The fixture of a system."""
    return json.loads((FOLDER / f"{stem}.json").read_text(encoding="utf-8"))


def parity(evidence: Evidence) -> dict[str, Any]:
    """Every recorded output of every case: equal, numbers to the tolerance."""
    rows: list[dict[str, Any]] = []
    wrong, largest, count = [], [0.0], 0
    for case in evidence.recorded:
        pairs = list(case.pairs())
        count += len(pairs)
        errors = [error_of(ours, theirs) for ours, theirs in pairs]
        largest.append(max(errors, default=math.inf))
        rows.append({"name": case.name, "max_abs_error": largest[-1], "generated": None})
        first = next((i for i, error in enumerate(errors) if error > TOLERANCE), None)
        if first is not None:
            wrong.append(f"{case.name}, output {first}: {pairs[first][0]!r:.200} instead of {pairs[first][1]!r:.200}")
    worst = max(largest)
    made = {"ok": not wrong, "oracle": evidence.oracle, "max_abs_error": worst, "tolerance": TOLERANCE, "cases": rows,
            "evidence": f"{count} recorded outputs in {len(rows)} cases; {evidence.oracle}"}  # fmt: skip
    return made | ({"why": "; ".join(wrong)} if wrong else {})


def error_of(ours: Any, theirs: Any) -> float:
    """The largest difference of two values of JSON; infinite for anything but numbers that differs."""
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return max((error_of(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return max((error_of(ours[name], theirs[name]) for name in ours), default=0.0)
    numbers = [isinstance(each, int | float) and not isinstance(each, bool) for each in (ours, theirs)]
    if all(numbers):
        return float(abs(ours - theirs))
    return 0.0 if ours == theirs and type(ours) is type(theirs) else math.inf


def mini() -> Any:
    """The default model as a tool.  Raises MissingData where its files are not here."""
    try:
        return pm.load("mini", offline=True)
    except WeightsError as problem:
        raise MissingData(
            f"the tools of this headline are mini's, which is not here: polymodal pull mini ({problem})"
        ) from None


def picture() -> Any:
    """A photograph of a cat.  Raises MissingData outside a checkout."""
    if not PICTURE.is_file():
        raise MissingData("examples/cat.jpg is not here: this headline needs a checkout of the repository")
    return pm.image(PICTURE)


def recording() -> Any:
    """A sentence of an audio book."""
    return pm.audio((real.speech().numpy(), 16000))


def shown(reply: Any, wanted: Iterable[bool], what: str) -> HeadlineResult:
    """Whether all was as wanted, with the steps of the reply."""
    steps = "; ".join(f"{step.tool}: {(step.error or step.result)[:80]}" for step in reply.steps)
    return HeadlineResult(ok=all(wanted), evidence=f"{what}: {steps} -> {reply.text[:120]}")


def case(name: str, pairs: Callable[[], Iterable[Pair]]) -> RecordedCase:
    return RecordedCase(name=name, pairs=pairs)
