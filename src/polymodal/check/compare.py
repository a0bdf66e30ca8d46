"""One case: write the folder, load it with `pm.load`, and compare everything the oracle gave.

Traps: logits at padding are not compared; equal ids over 16 greedy steps need equal logits at every step, so two tokens
that nearly tie may differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import polymodal as pm
from polymodal.check.record import TOLERANCE, Case, Expected, Tensors
from polymodal.fields import returned
from polymodal.fusion.visibility import InterleavedContext
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.protocols import rule_of


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """error: largest absolute error of logits, features and predictions.  generated, cached, batched: None = not
    compared.  why: what differed.
    """

    case: str
    system: str
    error: float
    generated: bool | None = None
    cached: bool | None = None
    batched: bool | None = None
    why: str = ""


def run_case(case: Case) -> Outcome:
    """Make, load, compare.  Exceptions of the model come through: a case that fails is a defect."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        expected = returned(case.make(folder), Expected, f"case {case.name!r}: make")
        model = pm.load(folder / case.file if case.file else folder, **expected.call)
        errors = {"logits": 0.0}
        if expected.logits is not None:
            errors["logits"] = error_of(model.logits(**expected.inputs), expected.logits, expected.inputs)
        if expected.features is not None:
            features = model.features(**expected.inputs)
            errors |= {name: features_error(features[name], oracle) for name, oracle in expected.features.items()}
        if expected.predictions is not None:
            found = model.predict(**expected.inputs)
            errors |= {name: max_abs_error(found[name], oracle) for name, oracle in expected.predictions.items()}
        far = ", ".join(f"{name} {error:.1e}" for name, error in errors.items() if error > TOLERANCE)
        outcome: dict[str, Any] = {"error": max(errors.values()), "why": far}
        if expected.generated is not None:
            outcome |= generation(model, expected)
        if expected.alone:
            outcome["batched"] = rows_alone(model, expected) <= TOLERANCE
        elif expected.generated is None:
            outcome["batched"] = items_alone(model, expected)
        return Outcome(case=case.name, system=model.system.id, **outcome)


def error_of(actual: Tensor, reference: Tensor, inputs: Mapping[str, Any]) -> float:
    """Maximum absolute error without padding; infinite for different shapes or NaN."""
    if actual.shape != reference.shape:
        return float("inf")
    mask = inputs.get("attention_mask")
    if mask is not None and reference.dim() == 3 and tuple(mask.shape) == tuple(reference.shape[:2]):
        actual, reference = actual[mask.bool()], reference[mask.bool()]
    return max_abs_error(actual, reference)


def max_abs_error(actual: Tensor, reference: Tensor) -> float:
    """Maximum absolute error; infinite for different shapes or NaN (equal infinities are equal)."""
    if actual.shape != reference.shape:
        return float("inf")
    actual, reference = actual.detach().float(), reference.detach().float()  # features carry gradients
    difference = torch.where(actual == reference, 0.0, (actual - reference).abs())
    return float("inf") if difference.isnan().any() else float(difference.max()) if difference.numel() else 0.0


def features_error(actual: Any, reference: Any) -> float:
    """`max_abs_error` of one tensor, or of lists of them."""
    if isinstance(reference, Tensor) and isinstance(actual, Tensor):
        return max_abs_error(actual, reference)
    if len(actual) != len(reference):
        return float("inf")
    return max(max_abs_error(ours, theirs) for ours, theirs in zip(actual, reference, strict=True))


def generation(model: Any, expected: Expected) -> dict[str, Any]:
    """Are the greedy ids the oracle's, and those of a full pass without cache?"""
    assert expected.generated is not None
    prompt = expected.prompt or expected.inputs
    new = {"max_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0, **expected.options}
    ids = model.generate(**prompt, **new)
    same = ids.shape == expected.generated.shape and bool(torch.equal(ids, expected.generated))
    why = {} if same else {"why": f"ids {ids[:, -16:].tolist()} instead of {expected.generated[:, -16:].tolist()}"}
    length = prompt["input_ids"].shape[1] if "input_ids" in prompt else 0
    cached = None
    # A random model may write a placeholder, which a full pass would take for an item that is not there.
    placeholders = torch.tensor(list(item_ids(model.module).values()), dtype=torch.int64)
    plain = not bool(torch.isin(ids[:, length:], placeholders).any()) and not expected.options
    if same and length and plain and torch.equal(ids[:, :length], prompt["input_ids"]):
        full = ruled(model.logits(**extended(prompt, ids))[:, length - 1 : -1], ids[:, length:], rule_of(model.module))
        cached = bool(torch.equal(full.argmax(-1), ids[:, length:]))
    elif same and not expected.options and isinstance(model.module, EncoderDecoderLM):
        full = ruled(model.logits(**prompt, decoder_input_ids=ids)[:, :-1], ids[:, 1:], rule_of(model.module))
        cached = bool(torch.equal(full.argmax(-1), ids[:, 1:]))
    return {"generated": same, "cached": cached, **why}


def ruled(logits: Tensor, answers: Tensor, rule: Callable[[Sequence[int]], Tensor | None] | None) -> Tensor:
    """Logits [B, n, V] of answers [B, n], the ids that the model's rule forbids made impossible."""
    if rule is None:
        return logits
    found = torch.full_like(logits, float("-inf"))
    for row, answer in enumerate(answers.tolist()):
        for index in range(len(answer)):
            allowed = rule(answer[:index])
            some = slice(None) if allowed is None else allowed
            found[row, index, some] = logits[row, index, some]
    return found


def item_ids(module: Any) -> dict[str, int]:
    """By modality the id that an item has in a row: its placeholder, or its mark where it enters as a context."""
    if not isinstance(module, MultimodalLM):
        return {}
    context = module.context.placeholders if isinstance(module.context, InterleavedContext) else {}
    return {**context, **module.placeholders}


def extended(prompt: Tensors, ids: Tensor) -> Tensors:
    """The prompt's tensors for a longer sequence: new tokens are real, and text."""
    batch, length = prompt["input_ids"].shape
    more = ids.shape[1] - length
    out = dict(prompt)
    for name, value in prompt.items():
        if isinstance(value, Tensor) and value.shape == (batch, length):
            fill = 1 if name == "attention_mask" else 0
            out[name] = torch.cat((value, value.new_full((batch, more), fill)), 1)
    out["input_ids"] = ids
    return out


def rows_alone(model: Any, expected: Expected) -> float:
    """Largest difference between a row of the batch and the same row alone, at real tokens."""
    whole, worst = model.logits(**expected.inputs), 0.0
    mask = expected.inputs.get("attention_mask")
    for row, inputs in expected.alone:
        alone, batched = model.logits(**inputs)[0], whole[row]
        if mask is not None and batched.dim() == 2 and mask.shape[1] == batched.shape[0]:
            batched = batched[mask[row].bool()]
        worst = max(worst, max_abs_error(alone, batched))
    return worst


def items_alone(model: Any, expected: Expected) -> bool | None:
    """For models whose tensors all count the same items: is each item's output that of the item alone?

    None where tensors count different things (pictures and texts), or the output is one of pairs or of tokens (whose
    rows a case lists itself, since padding is part of them).
    """
    tensors = {name: value for name, value in expected.inputs.items() if isinstance(value, Tensor) and value.dim()}
    counts = {len(value) for value in tensors.values()}
    if len(counts) != 1 or counts == {1} or len(tensors) != len(expected.inputs):
        return None
    if expected.logits is not None and expected.logits.dim() > 2:
        return None
    count = counts.pop()
    whole = outputs(model, expected, expected.inputs)
    if not whole or any(len(value) != count or value.shape[1:2] == (count,) for value in whole.values()):
        return None
    worst = 0.0
    for row in range(count):
        alone = outputs(model, expected, {name: value[row : row + 1] for name, value in tensors.items()})
        worst = max([worst, *(max_abs_error(alone[name], value[row : row + 1]) for name, value in whole.items())])
    return worst <= TOLERANCE


def outputs(model: Any, expected: Expected, inputs: Tensors) -> dict[str, Tensor]:
    """Predictions where the oracle gave some, else logits and features, as far as they are single tensors."""
    if expected.predictions is not None:
        return dict(model.predict(**inputs))
    named = {} if expected.logits is None else {"logits": model.logits(**inputs)}
    if expected.features is not None:
        features = model.features(**inputs)
        named |= {name: features[name] for name in expected.features if isinstance(features[name], Tensor)}
    return named
