"""A client's sampling fields as our options, within what the server allows.  What is not offered is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from polymodal.errors import ConfigError
from polymodal.generation.logit_rules import LogitRules
from polymodal.generation.sampling import SamplingOptions
from polymodal.generation.structured import Structured
from polymodal.serve.errors import Refused
from polymodal.serve.models import ServedModel
from polymodal.serve.schemas import Sampling
from polymodal.serve.settings import RequestLimits

PENALTIES = ("frequency_penalty", "presence_penalty")
SAME_NAMES = ("min_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "length_penalty", "seed")


def sampling_options(
    body: Sampling, model: ServedModel, limits: RequestLimits, *, max_tokens: int | None, logprobs: int | None
) -> SamplingOptions:
    """max_tokens: as the client named it, None for as many as are allowed.  Raises Refused (400)."""
    if max_tokens is not None and not 1 <= max_tokens <= limits.max_tokens:
        raise Refused(400, f"max_tokens: expected 1 to {limits.max_tokens}, found {max_tokens}", param="max_tokens")
    given = {name: getattr(body, name) for name in SAME_NAMES if name in body.model_fields_set}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    changes["stop_loops"] = 0  # what clients of this protocol expect: an answer ends by itself or at its limit
    changes["max_tokens"] = limits.max_tokens if max_tokens is None else max_tokens
    if body.stop is not None:
        changes["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if logprobs is not None:
        changes["logprobs"] = logprobs
    if body.num_beams is not None:
        if body.num_beams > limits.n:
            raise Refused(400, f"num_beams: expected 1 to {limits.n}, found {body.num_beams}", param="num_beams")
        changes["beams"] = body.num_beams
    if "seed" in changes:
        changes["seed"] %= 2**63  # clients send negative ones too
    biases = tuple((_id(key), value) for key, value in (body.logit_bias or {}).items())
    penalties = {name: value for name in PENALTIES if (value := getattr(body, name))}
    try:
        if biases or penalties:
            changes["rules"] = LogitRules(sequence_bias=biases, **penalties)
        return model.model.sampling_options(None, changes)
    except ConfigError as problem:
        raise Refused(400, re.sub(r"(SamplingOptions|LogitRules)\.", "", str(problem))) from problem


def grammar_of(body: Sampling, response_format: Mapping[str, Any] | None, forms: Structured) -> str | None:
    """The form that an answer must have, None for any.  Raises Refused, PromptError."""
    grammars = []
    if response_format is not None and response_format.get("type") != "text":
        grammars.append(forms.json(_schema(response_format)))
    wanted = body.structured_outputs
    if wanted is not None:
        if wanted.json_ is not None:
            grammars.append(forms.json(wanted.json_))
        if wanted.regex is not None:
            grammars.append(forms.regex(wanted.regex))
        if wanted.choice is not None:
            grammars.append(forms.choice(wanted.choice))
        if wanted.grammar is not None:
            grammars.append(forms.lark(wanted.grammar))
    if len(grammars) > 1 or (wanted is not None and not grammars):
        raise Refused(400, "structured_outputs: name one form", param="structured_outputs")
    return grammars[0] if grammars else None


def asks_for_form(body: Sampling, response_format: Mapping[str, Any] | None) -> bool:
    """Whether the answer must have a form."""
    plain = response_format is None or response_format.get("type") == "text"
    return body.structured_outputs is not None or not plain


def _schema(response_format: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON schema of a response_format.  Raises Refused."""
    if response_format.get("type") == "json_object":
        return {"type": "object"}
    given = response_format.get("json_schema") if response_format.get("type") == "json_schema" else None
    schema = given.get("schema") if isinstance(given, Mapping) else None
    if not isinstance(schema, Mapping):
        expected = 'expected {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": ...}'
        raise Refused(400, f"response_format: {expected}", param="response_format")
    return schema


def answers(body: Sampling, limits: RequestLimits) -> int:
    """n, within what is allowed.  Raises Refused."""
    n = 1 if body.n is None else body.n
    if not 1 <= n <= limits.n:
        raise Refused(400, f"n: expected 1 to {limits.n}, found {n}", param="n")
    return n


def _id(key: str) -> Any:
    try:
        return (int(key),)
    except ValueError:
        raise Refused(400, f"logit_bias: expected token ids, found {key[:40]!r}", param="logit_bias") from None
