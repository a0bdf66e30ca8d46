"""Modalities written one after another from others, each from all that is there by then (4M, arXiv 2312.06647).

    what is given -> encoder -> a grid: some of its places in each step (MaskGIT: the surest; ROAR: at random)
                                a sequence: word by word behind the sign of each hidden span, with a cache
    what was written is given with the rest -> the next modality

Guidance (arXiv 2207.12598): logits = without + weight (with - without), where "without" hides what was given at first.
Traps: hidden words are one sign [S_1], not nothing; ids of a grid that are written are read in the next step;
temperature 0 takes the likeliest ids, the surest first (the published code then writes places in order).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from polymodal.errors import ConfigError, PromptError
from polymodal.generation import sampling
from polymodal.generation.schedules import temperature_schedule, token_schedule
from polymodal.models.masked_modalities import MaskedModalities
from polymodal.nn.cache import KVCache

State = dict[str, dict[str, Tensor]]
Scheme = Literal["maskgit", "roar", "autoregressive"]


@dataclass(frozen=True, kw_only=True)
class SpanIds:
    """Ids of a vocabulary of sequences: the signs [S_0], [S_1] ... of hidden spans, the filler and the end.

    The first hidden span is [S_1].
    """

    spans: tuple[int, ...]
    pad: int = 0
    end: int = 3

    def sign(self, number: int) -> int:
        """Of the n-th span, from 1.  Raises PromptError where the vocabulary has no more."""
        if number >= len(self.spans):
            most = len(self.spans) - 1
            raise PromptError(f"a sequence is cut into {number} spans; the vocabulary has signs for {most}")
        return self.spans[number]


@dataclass(frozen=True, kw_only=True)
class Written:
    """How one modality is written.

    scheme: by default word by word for a sequence, MaskGIT for a grid.  steps, tokens, temperatures: of a grid.
    longest: most tokens of a sequence, its sign among them.  temperature: 0 takes the likeliest.  guidance: 1 is none.
    top_k 0 and top_p 1 keep all.
    """

    modality: str
    scheme: Scheme | None = None
    steps: int | None = None
    tokens: str = "cosine"
    longest: int | None = None
    temperature: float = 0.0
    temperatures: str = "constant"
    guidance: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, low in (("temperature", 0.0), ("guidance", -math.inf), ("top_k", 0)):
            if not (value := getattr(self, name)) >= low or value == math.inf:
                raise ConfigError(f"{self.modality}: {name} is {low} or more, found {value}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"{self.modality}: top_p is above 0 and at most 1, found {self.top_p}")
        if self.longest is not None and self.longest < 2:
            raise ConfigError(f"{self.modality}: longest is 2 or more, found {self.longest}")

    def scheme_for(self, sequence: bool) -> Scheme:
        """Raises ConfigError for one that cannot write this kind of modality."""
        chosen = self.scheme or ("autoregressive" if sequence else "maskgit")
        if (chosen == "autoregressive") != sequence:
            kind, right = ("sequence", "autoregressive") if sequence else ("grid", "maskgit or roar")
            raise ConfigError(f"{self.modality} is a {kind}: scheme is {right}, found {chosen!r}")
        return chosen


@torch.inference_mode()
def write_modalities(
    model: MaskedModalities,
    given: Mapping[str, Any],
    wanted: Sequence[Written],
    ids: SpanIds,
    *,
    seed: int = 0,
    grow: bool = False,
) -> dict[str, Tensor]:
    """Ids [B, L] of each wanted modality; sequences begin at their first word and are filled up with `ids.pad`.

    given: a batch as the model's forward takes it, without what is asked for.  A sequence that is wanted may be given
    too, with signs where something is to be written.  grow: grids that were written are hidden as well in guidance
    (words are not, as published).
    """
    state = _given(model, given, ids)
    generator = torch.Generator().manual_seed(seed)
    hidden = [name for name in state if name not in {each.modality for each in wanted}]
    rows, device = len(next(iter(state.values()))["tensor"]), model.mask_token.device
    found: dict[str, Tensor] = {}
    for each in wanted:  # a sequence that is to be written is read as one sign, from the beginning
        sequence = each.scheme_for(model.writer(each.modality).config.is_sequence) == "autoregressive"
        if sequence and each.modality not in state:
            state[each.modality] = _as_given([[ids.sign(1)]] * rows, ids, device)
    for each in wanted:
        if model.writer(each.modality).config.is_sequence:
            state[each.modality] = _write_sequence(model, state, each, ids, hidden, generator)
            found[each.modality] = state[each.modality]["tensor"]
        else:
            found[each.modality] = _write_grid(model, state, each, ids, hidden, generator)
            hidden += [each.modality] if grow else []
    return found


def _given(model: MaskedModalities, given: Mapping[str, Any], ids: SpanIds) -> State:
    """What is given; of sequences without masks no filler."""
    state = model.split(given)
    for name, parts in state.items():
        if model.modality(name).kind == "sequence" and f"{name}.input_mask" not in given:
            parts["given"] = parts["given"] & (parts["tensor"] != ids.pad)
    return state


def _as_given(rows: Sequence[Sequence[int]], ids: SpanIds, device: torch.device) -> dict[str, Tensor]:
    """Rows of ids, filled up, all given."""
    width = max(1, *map(len, rows))
    tokens = torch.tensor([[*row, *[ids.pad] * (width - len(row))] for row in rows], device=device)
    given = torch.tensor([[place < len(row) for place in range(width)] for row in rows], device=device)
    return {"tensor": tokens, "given": given, "asked": torch.zeros_like(given)}


def _without(model: MaskedModalities, state: State, names: Sequence[str], ids: SpanIds) -> State:
    """The same with some modalities hidden."""
    changed = dict(state)
    for name in names:
        part = dict(state[name])
        part["given"] = torch.zeros_like(part["given"])
        if model.modality(name).is_sequence:
            part["given"][:, 0] = True
            part["tensor"] = torch.zeros_like(part["tensor"])
            if model.modality(name).kind == "sequence":
                part["tensor"][:, 0] = ids.sign(1)
        changed[name] = part
    return changed


def _contexts(
    model: MaskedModalities, state: State, each: Written, ids: SpanIds, hidden: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """What the decoder reads, and without what is hidden where there is guidance."""
    states = [state]
    if each.guidance != 1.0 and hidden:
        states.append(_without(model, state, hidden, ids))
    return [model.read(model.pack_inputs(one)) for one in states]


def _mixed(logits: Sequence[Tensor], weight: float) -> Tensor:
    return logits[0] if len(logits) == 1 else logits[1] + (logits[0] - logits[1]) * weight


def _choose(logits: Tensor, each: Written, warmth: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids [B, N] and how likely each was, of logits [B, N, V]."""
    scores = logits.float().flatten(0, 1)
    scores = sampling.top_k(scores, each.top_k)
    scores = scores if each.top_p == 1.0 else sampling.top_p(scores, each.top_p)
    if warmth <= sampling.COLDEST:
        chosen, sure = scores.argmax(-1), scores.softmax(-1)
    else:
        sure = (scores / warmth).softmax(-1)
        drawn = torch.rand(len(scores), dtype=torch.float64, generator=generator).to(scores.device)
        chosen = sampling.sample(scores / warmth, drawn)
    shape = logits.shape[:2]
    return chosen.view(shape), sure.gather(-1, chosen[:, None]).view(shape)


def _write_grid(
    model: MaskedModalities, state: State, each: Written, ids: SpanIds, hidden: Sequence[str],
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Fills `state` with the ids of a grid."""
    name, writer = each.modality, model.writer(each.modality)
    rows, count = len(next(iter(state.values()))["tensor"]), writer.config.places
    device = model.mask_token.device
    empty = torch.zeros(rows, count, dtype=torch.bool, device=device)
    state[name] = {"tensor": torch.zeros(rows, count, dtype=torch.long, device=device), "given": empty, "asked": ~empty}
    steps = min(count, 8) if each.steps is None else each.steps
    roar = each.scheme == "roar"
    counts = token_schedule("linear" if roar else each.tokens, steps, count)
    for number, warmth in zip(counts, temperature_schedule(each.temperatures, each.temperature, counts), strict=True):
        order = state[name]["given"].double()
        if roar:
            order = order + torch.rand(count, generator=generator).to(device) / 2  # the same places in each row
        left = int(count - state[name]["given"][0].sum())
        places = order.argsort(dim=1, stable=True)[:, : number if roar else left]
        table = (writer(state[name]["asked"]) + model.modality_vector(name)).expand(rows, -1, -1)
        x = model.mask_token + table.gather(1, places[..., None].expand(-1, -1, table.shape[2]))
        logits = [model.head(name)(model.write(x, *one)) for one in _contexts(model, state, each, ids, hidden)]
        chosen, sure = _choose(_mixed(logits, each.guidance), each, warmth, generator)
        if not roar:
            best = sure.topk(number, dim=1).indices
            chosen, places = chosen.gather(1, best), places.gather(1, best)
        part = state[name]
        state[name] = {
            "tensor": part["tensor"].scatter(1, places, chosen),
            "given": part["given"].scatter(1, places, True),
            "asked": part["asked"].scatter(1, places, False),
        }
    return state[name]["tensor"]


def _write_sequence(
    model: MaskedModalities, state: State, each: Written, ids: SpanIds, hidden: Sequence[str],
    generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """Words behind the signs of a sequence, put where they belong."""
    name, writer = each.modality, model.writer(each.modality)
    rows, device = len(next(iter(state.values()))["tensor"]), model.mask_token.device
    start = torch.full((rows, 1), ids.sign(1), device=device)
    ends = torch.tensor([ids.sign(count + 1) for count in _signs_given(state[name], ids)], device=device)
    longest = min(each.longest or writer.config.longest, writer.config.longest + 1)
    contexts = _contexts(model, state, each, ids, hidden)
    caches: list[KVCache] = [model.new_cache(rows, longest) for _ in contexts]
    table = writer(torch.ones(1, longest, dtype=torch.bool, device=device)) + model.modality_vector(name)
    written, ended = start, torch.zeros(rows, dtype=torch.bool, device=device)
    for place in range(longest - 1):
        x = writer.tokens(written[:, -1:]) + table[:, place : place + 1]
        logits = [
            model.head(name)(model.write(x, *one, cache=cache)) for one, cache in zip(contexts, caches, strict=True)
        ]
        chosen, _ = _choose(_mixed(logits, each.guidance), each, each.temperature, generator)
        written = torch.cat((written, chosen), 1)
        ended |= chosen[:, 0] == ends
        if bool(ended.all()):
            break
    merged = [merge_spans(_real(state[name], row), _until(written[row].tolist(), int(ends[row])), ids)
              for row in range(rows)]  # fmt: skip
    return _as_given(merged, ids, device)


def _real(part: Mapping[str, Tensor], row: int) -> list[int]:
    return part["tensor"][row][part["given"][row]].tolist()


def _signs_given(part: Mapping[str, Tensor], ids: SpanIds) -> list[int]:
    """How many signs each row holds.  Raises PromptError for a row without one, or with others than the first."""
    signs = [[token for token in _real(part, row) if token in ids.spans] for row in range(len(part["tensor"]))]
    for row, found in enumerate(signs):
        if not found or found != [ids.sign(number + 1) for number in range(len(found))]:
            raise PromptError(f"row {row}: a sequence that is to be written holds the signs [S_1], [S_2] ... in order "
                              f"where words are wanted, found {len(found)} of them")  # fmt: skip
    return [len(found) for found in signs]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def merge_spans(given: Sequence[int], written: Sequence[int], ids: SpanIds) -> list[int]:
    """What is given with the words that were written behind each sign in its place."""
    spans: dict[int, list[int]] = {}
    sign = None
    for token in written:
        if token in ids.spans:
            sign = token
        elif sign is not None:
            spans.setdefault(sign, []).append(token)
    return [word for token in given for word in (spans.get(token, []) if token in ids.spans else [token])]


def chain(names: Sequence[str], like: Written) -> tuple[Written, ...]:
    """Several modalities written in the same way."""
    return tuple(replace(like, modality=name) for name in names)
