"""`polymodal check FOLDER`: what any checkpoint must do, tried on this one as `pm.load` reads it.

    recognised  which system it is, and in which format
    names       every name of its files used or dropped by name, every parameter filled, every shape fitting
    load        strictly, and every weight is a number
    forward     logits (or vectors, classes, words) of a picture, a sound, a few words: all of them numbers
    generate    a few tokens, the same when asked again
    save        written with `Model.save` and loaded again, it gives the same outputs, bit for bit

What cannot be tried is `"ok": null` with `"why"`, as for systems (engine.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import polymodal as pm
from polymodal.check.engine import Result, guarded, unknown
from polymodal.check.trial import Outputs, Trial, trial
from polymodal.checkpoints.gguf import is_gguf
from polymodal.checkpoints.record import CheckpointFiles, understood
from polymodal.errors import ConfigError
from polymodal.systems import System, Variant

PARTS = ("recognised", "names", "load", "forward", "generate", "save")
NEW = 4  # tokens that are generated
SAVED = "polymodal.json"


def check_folder(path: Path, system: str | None = None, progress: Callable[[str], None] | None = None) -> Result:
    """All parts of one folder or weights file, in the order of PARTS.  system: what to read it as."""
    say = progress or (lambda text: None)
    result: Result = {"id": str(path)} | {part: unknown("it was not loaded") for part in PARTS}
    found: list[tuple[System, Variant]] = []
    loaded: list[Any] = []
    result["recognised"] = guarded(lambda: recognised(path, system, found))
    if not found:
        return result
    say("names")
    result["names"] = guarded(lambda: names(path, *found[0]))
    say("load")
    result["load"] = guarded(lambda: load(path, system, loaded))
    if loaded:
        result |= tried(loaded[0], system, say)
    return result


def recognised(path: Path, system: str | None, found: list[tuple[System, Variant]]) -> Result:
    """Which system, format and size it is."""
    seen, variant = pm.look(path, system=system)
    found.append((seen, variant))
    format = seen.formats[variant.format].name if seen.formats else "saved by polymodal"
    return {"ok": True, "system": seen.id, "format": format, "evidence": f"{seen.id}; {format}"}


def names(path: Path, system: System, variant: Variant) -> Result:
    """The key table that fits, and what it does with every name."""
    from polymodal.weights.build import build_empty
    from polymodal.weights.load import expected_shapes, fitting
    from polymodal.weights.quantised import quantisation_of, unquantised, without_spare_biases

    if (path / SAVED).is_file() or variant.config is None:
        return unknown("saved under the module's own names; the column load has them")
    if is_gguf(path):
        return unknown("llama.cpp's names; the column load has them")
    with understood(f"{path}: config.json", variant.config):
        spec, files, format = system.model_spec(variant), CheckpointFiles(path), system.formats[variant.format]
        tensors: Mapping[str, Tensor] = files.tensors(format.entry) if format.gather is None else format.gather(files)
        tensors = unquantised(tensors, quantisation_of(variant.config, path))
        module = build_empty(lambda: system.module(variant))
        tensors = without_spare_biases(tensors, spec.keys, module.state_dict)
        table, report = fitting(spec.keys, tensors, expected_shapes(module))
    used, dropped, new = len(report.used), len(report.dropped), len(report.new)
    tables = f"key table {spec.keys.index(table) + 1} of {len(spec.keys)}"
    evidence = f"{used} used, {dropped} dropped by name, {new} new; {tables}"
    return {"ok": True, "used": used, "dropped": dropped, "new": new, "evidence": evidence}


def load(path: Path, system: str | None, loaded: list[Any]) -> Result:
    """`pm.load`, and every weight is a number."""
    model = pm.load(path, system=system)
    loaded.append(model)
    wrong = [name for name, x in model.module.state_dict().items() if not finite(x)]
    count = sum(p.numel() for p in model.parameters())
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    made: Result = {"ok": not wrong, "parameters": count, "dtype": ", ".join(dtypes)}
    made["evidence"] = f"{count:,} parameters, {made['dtype']}, in {model.load_seconds:.1f} s; {', '.join(model.can)}"
    return made | ({"why": f"weights that are not finite: {', '.join(wrong[:3])}"} if wrong else {})


def tried(model: Any, system: str | None, say: Callable[[str], None]) -> Result:
    """The columns forward, generate and save of a loaded model."""
    result: Result = {}
    tries: list[Trial | None] = []
    say("forward")
    result["forward"] = guarded(lambda: forward(model, tries))
    given = tries[0] if tries else None
    nothing = unknown("there is nothing to try it on")
    say("generate")
    result["generate"] = guarded(lambda: generate(model, given)) if given is not None else nothing
    say("save")
    result["save"] = guarded(lambda: save(model, given, system)) if given is not None else nothing
    return result


def forward(model: Any, tries: list[Trial | None]) -> Result:
    """Outputs of made-up inputs, and a loss where the model learns from labels: all of them numbers."""
    given = trial(model)
    tries.append(given)
    if given is None:
        return unknown(f"no inputs for {', '.join(model.system.inputs)} are made up here; evidence brings its own")
    outputs = given.outputs(model)
    wrong = [name for name, tensor in outputs.items() if not finite(tensor)]
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(outputs.items())[:3])
    loss = None
    if given.batch is not None:
        with torch.no_grad():
            loss = model(**given.batch).loss
        wrong += ["loss"] if loss is not None and not finite(loss) else []
    about = f"{given.about}: {shapes}" + ("" if loss is None else f", loss {float(loss):.2f}")
    return {"ok": not wrong, "evidence": about} | ({"why": f"not finite: {', '.join(wrong)}"} if wrong else {})


def generate(model: Any, given: Trial) -> Result:
    """A few greedy tokens, twice the same."""
    if given.prompt is None or "generate" not in model.can:
        return unknown("it does not generate" if "generate" not in model.can else "no prompt for it is made up here")
    prompt = {name: value for name, value in given.prompt.items() if name != "labels"}
    first, again = (model.generate(**prompt, max_new_tokens=NEW, eos_token_id=None, pad_token_id=0) for _ in "12")
    answer = first[:, prompt["input_ids"].shape[1] :]
    made: Result = {"ok": True, "evidence": f"{answer.shape[1]} tokens: {answer[0].tolist()}"}
    if answer.shape[1] != NEW:
        return made | {"ok": False, "why": f"expected {NEW} new tokens, found {answer.shape[1]}"}
    return made if torch.equal(first, again) else made | {"ok": False, "why": "other tokens the second time"}


def save(model: Any, given: Trial, system: str | None) -> Result:
    """`Model.save`, `pm.load`, and the same outputs bit for bit."""
    with tempfile.TemporaryDirectory() as directory:
        folder = model.save(Path(directory) / "saved")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        again = pm.load(folder, system=system, dtype=dtype_of(model))
        before, after = given.outputs(model), given.outputs(again)
    far = different(before, after)
    evidence = f"{size / 1e6:,.1f} MB; {len(before)} outputs equal bit for bit"
    return {"ok": not far, "evidence": evidence} | ({"why": f"other outputs: {', '.join(far)}"} if far else {})


def different(before: Outputs, after: Outputs) -> list[str]:
    """Names of outputs that are not the same, bit for bit."""
    if before.keys() != after.keys():
        raise ConfigError(f"outputs {', '.join(before)} before and {', '.join(after)} after saving")
    return [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]


def dtype_of(model: Any) -> str:
    """The dtype the model computes in, by the name that `pm.load` takes."""
    from polymodal.nn.first_weight import first_weight

    return str(first_weight(model.module).dtype).removeprefix("torch.")


def finite(tensor: Tensor) -> bool:
    """Whether there is no NaN; of whole numbers always, of masks that hold -inf too."""
    return not tensor.is_floating_point() or not bool(tensor.isnan().any())
