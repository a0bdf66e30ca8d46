"""What `polymodal check ID` finds out: a system's own evidence, run now.

    build   every variant on the meta device: parameters built + dropped by name == published
    keys    the published list of names and shapes against the key tables, strictly, every variant
    parity  every case: folder -> pm.load -> logits, features, 16 greedy ids against the oracle; of an agent what its
            parsers make of recorded outputs of planners
    cache   the same ids without cache;  batch: rows of a batch equal to rows alone
    recipe  every stage of the recipe trains what it says at tiny size on real data, and its loss falls
    headline  what the system is counted for, seen in every layout its checkpoints are kept in

What cannot be checked is `"ok": null` with `"why"`; it is never true.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from polymodal import systems
from polymodal.check import agents
from polymodal.check.columns import PARTS
from polymodal.check.compare import Outcome, run_case
from polymodal.check.record import (
    TOLERANCE,
    Case,
    Evidence,
    Expected,
    HeadlineResult,
    MissingData,
    Size,
    TrainingCheck,
)
from polymodal.check.training import TrainingResult, train_stage
from polymodal.checkpoints import record
from polymodal.errors import ConfigError, PolymodalError
from polymodal.fields import constructor_error, explained, place_of, returned, shown
from polymodal.systems import System, Variant
from polymodal.weights.build import build_empty

Result = dict[str, Any]
RECORDS = record.RECORDS | {
    each.__name__: each for each in (Case, Evidence, Expected, HeadlineResult, Size, TrainingCheck)
}


def check(system: System, progress: Callable[[str], None] | None = None) -> Result:
    """All parts of one system, in the order of PARTS; keys as design.md gives them."""
    say = progress or (lambda text: None)
    evidence = evidence_of(system)
    result: Result = {"id": system.id}
    if evidence is None:
        return result | {part: unknown("no evidence file: this system has no published oracle") for part in PARTS}
    say("build")
    result["build"] = guarded(lambda: build(system, evidence))
    say("keys")
    result["keys"] = guarded(lambda: keys(system, evidence))
    outcomes: list[Outcome] = []
    result["parity"] = guarded(lambda: parity(system, evidence, outcomes, say))
    nothing = "an agent computes no tokens itself" if system.is_agent else ""
    result["cache"] = agreed(outcomes, "cached", nothing or "no case generates token by token")
    result["batch"] = agreed(outcomes, "batched", nothing or "no case compares rows of a batch with rows alone")
    result["recipe"] = guarded(lambda: recipe(system, evidence, say))
    result["headline"] = guarded(lambda: headline(system, evidence, say))
    if evidence.exceptions:
        result["exceptions"] = list(evidence.exceptions)
    return result


def evidence_of(system: System) -> Evidence | None:
    """The evidence file of a system of the catalogue; None where there is none."""
    stem = system.id.replace("-", "_").replace(".", "_")
    name = f"polymodal.check.evidence.{stem}"
    if importlib.util.find_spec(name) is None:
        return None
    path = Path(__file__).with_name("evidence") / f"{stem}.py"
    with explained(path, RECORDS):
        found = vars(importlib.import_module(name)).get("EVIDENCE")
    if not isinstance(found, Evidence):
        raise ConfigError(f"{path} must hold EVIDENCE = Evidence(...); found {shown(found)}")
    return found


def unknown(why: str) -> Result:
    return {"ok": None, "why": why}


def guarded(work: Callable[[], Result]) -> Result:
    """A part's result; a package or data that is missing makes it unknown, an error makes it false."""
    try:
        return work()
    except MissingData as missing:
        return unknown(str(missing))
    except ImportError as missing:
        return unknown(f"{missing.name or missing} is not installed; pip install 'polymodal[parity]'")
    except PolymodalError as problem:
        return {"ok": False, "why": str(problem)}
    except Exception as problem:
        why = constructor_error(problem, RECORDS) or f"{type(problem).__name__}: {problem}"
        return {"ok": False, "why": f"{place_of(problem)}: {why}"}


def build(system: System, evidence: Evidence) -> Result:
    """Parameters of every variant, built without memory, against the published number."""
    rows: list[Result] = []
    for variant in system.variants:
        size = size_of(evidence, variant)
        module = build_empty(partial(system.module, variant))
        built = sum(p.numel() for p in module.parameters())
        dropped = 0 if size is None else dropped_numbers(system, variant, module, size)
        published = variant.parameters if size is None else size.parameters()
        known = size is not None or system.is_agent
        rows.append({"variant": variant.name, "parameters": built, "dropped": dropped, "published": published,
                     "ok": built + dropped == published == variant.parameters if known else None})  # fmt: skip
    first = rows[0]
    wrong = [row for row in rows if row["ok"] is False]
    whys = [f"{r['variant']}: built {r['parameters']} + dropped {r['dropped']}, not {r['published']}" for r in wrong]
    answers: list[bool | None] = [row["ok"] for row in rows]
    ok = combined(answers)
    made: Result = {"ok": ok, "parameters": first["parameters"], "published": first["published"], "variants": rows}
    if ok is None:
        made["why"] = "a variant has no list of the published names to count by"
    return made | ({"why": "; ".join(whys)} if whys else {})


def size_of(evidence: Evidence, variant: Variant) -> Size | None:
    return next((size for size in evidence.published if size.variant == variant.name), None)


class _Named(Mapping[str, torch.Tensor]):
    """Names and shapes in place of a file: enough for every check a key table makes."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.shapes = shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.empty(self.shape(name), device="meta")

    def __iter__(self) -> Any:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.shapes[name])


def dropped_numbers(system: System, variant: Variant, module: torch.nn.Module, size: Size) -> int:
    """How many published parameters the key table leaves out by name, buffers not counted."""
    from polymodal.weights.load import expected_shapes, fitting

    shapes = size.shapes()
    _, report = fitting(system.model_spec(variant).keys, _Named(shapes), expected_shapes(module))
    return sum(math.prod(shapes[name]) for name in report.dropped if not buffer_name(name))


BUFFERS = ("position_ids", "inv_freq", "token_type_ids", "masked_bias", "num_batches_tracked",
           "relative_position_index", "mask", "freqs_cos", "freqs_sin")  # fmt: skip


def buffer_name(name: str) -> bool:
    """Computed tables that some files store beside the parameters."""
    leaf = name.rsplit(".", 1)[-1]
    # ImageBind's scales are constants, but for the text's, which was learned.
    return leaf in BUFFERS or (leaf == "log_logit_scale" and ".text." not in name)


def keys(system: System, evidence: Evidence) -> Result:
    """Every published name used or dropped by name, every parameter filled or declared new, every shape fitting."""
    from polymodal.weights.load import expected_shapes, fitting

    if system.is_agent:
        return unknown("an agent has no weights of its own")
    rows = []
    for variant in system.variants:
        size = size_of(evidence, variant)
        if size is None:
            continue
        module = build_empty(partial(system.module, variant))
        named = _Named(size.shapes())
        _, report = fitting(system.model_spec(variant).keys, named, expected_shapes(module))
        used = sum(len(use.sources) for use in report.uses)
        rows.append({"variant": variant.name, "used": used, "dropped": len(report.dropped), "new": len(report.new),
                     "source": size.source})  # fmt: skip
    if not rows:
        return unknown("no published list of names")
    first = rows[0]
    missing = [variant.name for variant in system.variants if size_of(evidence, variant) is None]
    made = {"ok": None if missing else True, **{name: first[name] for name in ("used", "dropped", "new", "source")}}
    return made | {"variants": rows} | ({"why": f"no list for {', '.join(missing)}"} if missing else {})


def parity(system: System, evidence: Evidence, outcomes: list[Outcome], say: Callable[[str], None]) -> Result:
    """Largest error over all cases; each case's folder must be recognised as this system."""
    if evidence.recorded:
        say("parity: recorded outputs")
        return agents.parity(evidence)
    for case in evidence.cases:
        say(f"parity: {case.name}")
        outcomes.append(run_case(case))
    if not outcomes:
        return unknown("no case")
    worst = max(outcome.error for outcome in outcomes)
    wrong = [f"{o.case}: {o.why or 'differs'}" for o in outcomes if o.error > TOLERANCE or o.generated is False]
    wrong += [f"{o.case}: recognised as {o.system}" for o in outcomes if o.system != system.id]
    made: Result = {"ok": not wrong, "oracle": evidence.oracle, "max_abs_error": worst, "tolerance": TOLERANCE}
    made["cases"] = [{"name": o.case, "max_abs_error": o.error, "generated": o.generated} for o in outcomes]
    return made | ({"why": "; ".join(wrong)} if wrong else {})


def agreed(outcomes: Sequence[Outcome], field: str, why: str) -> Result:
    """One yes/no question over all cases that answer it."""
    found = [(outcome.case, getattr(outcome, field)) for outcome in outcomes]
    answered = [(case, value) for case, value in found if value is not None]
    if not answered:
        return unknown(why)
    wrong = [case for case, value in answered if not value]
    return {"ok": not wrong, "cases": len(answered)} | ({"why": f"differs in {', '.join(wrong)}"} if wrong else {})


def recipe(system: System, evidence: Evidence, say: Callable[[str], None]) -> Result:
    """Every stage at tiny size on real data."""
    if not system.recipe:
        return unknown("an agent learns nothing" if system.is_agent else "no recipe was published")
    system.check_recipe()
    learned: list[TrainingResult] = []
    missing: list[str] = []
    for stage in system.recipe:
        if stage.name not in evidence.training_checks:
            missing.append(stage.name)
            continue
        say(f"recipe: {stage.name}")
        given = evidence.training_checks[stage.name]()
        small = returned(given, TrainingCheck, f"training check of {stage.name}")
        learned.append(train_stage(stage, small))
    if not learned:
        return unknown(f"no training check for {', '.join(missing)}")
    wrong = [each.stage for each in learned if not each.ok]
    made: Result = {"ok": False if wrong else None if missing else True, "first_loss": learned[0].first,
                    "last_loss": learned[-1].last,
                    "stages": [{"name": e.stage, "first_loss": e.first, "last_loss": e.last, "trained_share": e.share}
                               for e in learned]}  # fmt: skip
    why = [f"the loss does not fall in {', '.join(wrong)}"] if wrong else []
    why += [f"no training check for {', '.join(missing)}"] if missing else []
    return made | ({"why": "; ".join(why)} if why else {})


def headline(system: System, evidence: Evidence, say: Callable[[str], None]) -> Result:
    """What the system is counted for, in the first layout of its record and in each of the others.

    A layout that can show nothing says why and does not count; one that the evidence forgot does.
    """
    if evidence.headline is None:
        return unknown("no demonstration is written yet")
    others = [format.name for format in system.formats[1:]]
    if strange := sorted(set(evidence.layouts) - set(others)):
        raise ConfigError(
            f"evidence of {system.id}: layouts names {strange[0]!r}; expected {', '.join(others) or 'none'}"
        )
    say("headline")
    first = returned(evidence.headline(), HeadlineResult, "headline")
    made: Result = {"ok": first.ok, "evidence": first.evidence}
    rows = []
    for name in others:
        say(f"headline: {name}")
        rows.append({"name": name, **layout(name, evidence.layouts.get(name))})
    if rows:
        counted: list[bool | None] = [
            row["ok"] for row in rows if not isinstance(evidence.layouts.get(row["name"]), str)
        ]
        made |= {"ok": combined([first.ok, *counted]), "layouts": rows}
        made["evidence"] += "".join(f"; {row['name']}: {row.get('evidence') or row['why']}" for row in rows)
    return made | ({"why": made["evidence"]} if made["ok"] is None else {})


def layout(name: str, given: Callable[[], HeadlineResult] | str | None) -> Result:
    """The headline in one further layout, or why there is none."""
    if given is None:
        return unknown("no demonstration is written for this layout")
    if isinstance(given, str):
        return unknown(given)
    shown = returned(given(), HeadlineResult, f"layouts[{name!r}]")
    return {"ok": shown.ok, "evidence": shown.evidence}


def combined(values: Sequence[bool | None]) -> bool | None:
    """False if any is, None if any is unknown, else True."""
    return False if False in values else None if None in values else True


def passed(result: Result) -> bool:
    """Whether nothing was found wrong; what could not be checked does not count against it."""
    return all(result[part]["ok"] is not False for part in parts_of(result))


def parts_of(result: Result) -> list[str]:
    """The names of a result's parts, in order: of a system's, a folder's or a file's."""
    return [name for name, found in result.items() if isinstance(found, dict) and "ok" in found]


def all_checked() -> list[System]:
    """The systems that have evidence, by id."""
    return [system for system in systems.every() if evidence_of(system) is not None]
