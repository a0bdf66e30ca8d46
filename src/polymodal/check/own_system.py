"""`polymodal check ./my_system.py`: a user's own system, tried without evidence of its own.

    record    the file holds a system; its parts and its stages name parameters that are there
    build     every variant, without memory; the parameters are as many as the record says
    forward, generate   as for a folder (folder.py), the smallest variant with fresh weights
    recipe    every stage trains what it says on made-up conversations, and its loss falls
    save      written and read again, it gives the same outputs, bit for bit

A system with checkpoint formats is written as a published folder first, so that its names on disk are tried as well.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal import systems
from polymodal.check import folder
from polymodal.check.engine import Result, combined, guarded, unknown
from polymodal.check.record import TrainingCheck
from polymodal.check.training import train_stage
from polymodal.check.trial import Trial
from polymodal.errors import ConfigError, PolymodalError
from polymodal.systems import System, Variant
from polymodal.weights.build import build_empty

PARTS = ("record", "build", "forward", "generate", "recipe", "save")
LARGEST = 300_000_000  # parameters that are built for a trial
STEPS = 12


def check_own_system(file: str, progress: Callable[[str], None] | None = None) -> Result:
    """All parts of the system in a file, "./my_system.py" or "./my_system.py:variant", in the order of PARTS."""
    say = progress or (lambda text: None)
    result: Result = {"id": file} | {part: unknown("the system was not built") for part in PARTS}
    found: list[System] = []
    result["record"] = guarded(lambda: record(file, found))
    if not found:
        return result
    system = found[0]
    say("build")
    result["build"] = guarded(lambda: build(system))
    if result["build"]["ok"] is False:
        return result
    with tempfile.TemporaryDirectory() as directory:
        loaded: list[Any] = []
        say("forward")
        result["forward"] = guarded(lambda: forward(file, system, Path(directory), loaded))
        if len(loaded) < 2:
            return result
        model, tries = loaded
        say("generate")
        result["generate"] = guarded(lambda: folder.generate(model, tries))
        say("recipe")
        result["recipe"] = guarded(lambda: recipe(model, tries))
        say("save")
        result["save"] = guarded(lambda: save(file, model, tries))
    return result


def record(file: str, found: list[System]) -> Result:
    """The record, its drawing and what its stages name."""
    system, _ = systems.find(file)
    found.append(system)
    system.check_recipe()
    for variant in system.variants:
        names = [name for name, _ in build_empty(partial(system.module, variant)).named_parameters()]
        for part in system.drawing(variant):
            if part.prefix and not any(name.startswith(f"{part.prefix}.") for name in names):
                raise ConfigError(f"{variant.name}: part {part.name!r}: '{part.prefix}' names no parameter")
    variants = ", ".join(variant.name for variant in system.variants)
    stages = ", ".join(stage.name for stage in system.recipe) or "none"
    return {"ok": True, "evidence": f"{system.id}; variants: {variants}; stages: {stages}"}


def build(system: System) -> Result:
    """Parameters of every variant, against the record's number where it has one.

    A published number may be larger by what the key table drops by name, which only a list of the names can tell.
    """
    if system.is_agent:
        return unknown("an agent has no weights of its own")
    counts = {variant.name: count(system, variant) for variant in system.variants}
    if empty := [name for name, number in counts.items() if not number]:
        raise ConfigError(f"{system.id}:{empty[0]}: build returned a module without parameters; an agent has no build")
    said = {variant.name: variant.parameters for variant in system.variants}
    other = [name for name in counts if said[name] not in (0, counts[name])]
    wrong = [name for name in other if not system.formats or counts[name] > said[name]]
    evidence = ", ".join(f"{name} {number:,} parameters" for name, number in counts.items())
    whys = [f"{name}: built {counts[name]:,}, the record says {said[name]:,}" for name in other]
    ok = False if wrong else None if other else True
    return {"ok": ok, "evidence": evidence} | ({"why": "; ".join(whys)} if whys else {})


def count(system: System, variant: Variant) -> int:
    """Parameters of a variant, built without memory."""
    return sum(p.numel() for p in build_empty(partial(system.module, variant)).parameters())


def forward(file: str, system: System, checkpoint_dir: Path, loaded: list[Any]) -> Result:
    """A loaded model of the smallest variant and its outputs; `loaded` gets the model and its trial."""
    variant = min(system.variants, key=lambda variant: count(system, variant))
    size = count(system, variant)
    if size > LARGEST:
        return unknown(f"the smallest variant, {variant.name}, has {size:,} parameters; add one of test size")
    name = file.partition(":")[0]
    if not system.formats:
        model = pm.load(f"{name}:{variant.name}")
    else:
        write(system, variant, checkpoint_dir)
        model = pm.load(checkpoint_dir, system=name)
    loaded.append(model)
    tries: list[Trial | None] = []
    result = folder.forward(model, tries)
    if tries[0] is not None:
        loaded.append(tries[0])
    return result


def write(system: System, variant: Variant, checkpoint_dir: Path) -> None:
    """A variant with fresh weights as a published folder: its config.json and the names of the first key table."""
    from polymodal.weights.export import export_safetensors

    torch.manual_seed(0)
    spec = system.model_spec(variant)
    (checkpoint_dir / "config.json").write_text(json.dumps(variant.config), encoding="utf-8")
    export_safetensors(spec.build(), checkpoint_dir / "model.safetensors", spec.keys[0])


def recipe(model: Any, tries: Trial) -> Result:
    """Every stage on the same made-up batch, each from the weights as they were loaded."""
    stages = model.system.recipe
    if not stages:
        return unknown("it has no recipe")
    if tries.batch is None:
        return unknown("no batch with labels is known for this kind of model; evidence brings its own")
    rows: list[Result] = []
    for stage in stages:
        tiny = TrainingCheck(model=copy.deepcopy(model.module), batches=lambda step: tries.batch, steps=STEPS)
        try:
            done = train_stage(stage, tiny)
        except (PolymodalError, KeyError) as problem:
            why = f"{stage.name}: {problem}"
            rows.append({"ok": None if "objective" in str(problem) or isinstance(problem, KeyError) else False,
                         "why": why})  # fmt: skip
            continue
        falls = math.isfinite(done.last) and done.ok
        words = f"{stage.name} {done.first:.2f} -> {done.last:.2f}, {100 * done.share:.1f} % trains"
        rows.append({"ok": falls, "evidence": words} | ({} if falls else {"why": f"the loss does not fall: {words}"}))
    whys = [row["why"] for row in rows if "why" in row]
    made: Result = {"ok": combined([row["ok"] for row in rows])}
    made["evidence"] = "; ".join(row["evidence"] for row in rows if "evidence" in row)
    return made | ({"why": "; ".join(whys)} if whys else {})


def save(file: str, model: Any, tries: Trial) -> Result:
    """`Model.save`, and the weights read back into the system as it loads."""
    if not list(model.parameters()):
        return unknown("it has no weights to save")
    name = file.partition(":")[0]
    if model.system.formats:
        return folder.save(model, tries, name)
    from polymodal.weights.load import load_safetensors

    before = tries.outputs(model)
    with tempfile.TemporaryDirectory() as directory:
        saved = model.save(Path(directory) / "saved")
        again = pm.load(f"{name}:{model.variant.name}")
        load_safetensors(again.module, saved / "model.safetensors")
        far = folder.different(before, tries.outputs(again))
    evidence = f"{len(before)} outputs equal bit for bit"
    return {"ok": not far, "evidence": evidence} | ({"why": f"other outputs: {', '.join(far)}"} if far else {})
