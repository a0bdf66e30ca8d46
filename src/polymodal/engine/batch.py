"""Rows that write: what each has said and how it chooses, and the batches in which they are computed.

    Row            one answer: writer, sampler, rule; the id that its batch feeds next
    SharedBatch    rows of many requests, in a RowCache; they come and go at any step
    OwnBatch       rows that were read together, of a model that gives every batch a context (cross-attention, the
                   encoder's output), which rows that come later cannot share
    BeamBatch      the beams of one request

Trap: a row's choice depends on its own logits, history and random numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polymodal.engine.compiled import CompiledStep
from polymodal.engine.rows import RowCache
from polymodal.errors import PolymodalError
from polymodal.generation.beam_search import Search, beams_of, best_generations
from polymodal.generation.decode_state import DecodeState, repeat_rows
from polymodal.generation.output import GREEDY, Allowed, Generation, Piece, Writer
from polymodal.generation.sampler import Draws, Readout, Sampler
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.cache import KVCache

# What a row may ask for and yet choose with others: no past and no rule of its own enters its choice.
_CHOICE: dict[str, Any] = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": None, "logprobs": None}
_ENDING: dict[str, Any] = {"max_tokens": GREEDY.max_tokens, "stop": (), "stop_loops": 0}


@dataclass(kw_only=True, eq=False)
class Row:
    """One answer of a request: number `answer` of `request`.  prompt: the ids that a repetition penalty counts."""

    request: int
    answer: int
    writer: Writer
    prompt: Sequence[int]
    allowed: Allowed | None
    banned: Sequence[int]
    joint: bool = field(init=False)
    draws: Draws = field(init=False)
    _sampler: Sampler | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        options = self.writer.options
        # Whatever else is asked for, an option that is not known here too, makes it choose by itself.
        self.joint = self.allowed is None and replace(options, **_CHOICE, **_ENDING) == GREEDY
        self.draws = Draws(options.seed)

    def choose(self, logits: Tensor) -> Piece:
        """The next piece from logits [1, V].  Raises WeightsError for scores that are no numbers."""
        options, ends = self.writer.options, self.writer.constraints.ends
        if self._sampler is None:
            self._sampler = Sampler([options], [self.prompt], self.banned, ends)
        rules = None if self.allowed is None else [self.allowed(self.writer.ids)]
        ids = self._sampler.choose(logits, rules, [self.writer.ids])
        return self.writer.accept(*Readout([options]).read(ids, logits)[0])


class Chooser:
    """The next piece of every row of a batch: those of one kind all at once, each as it would choose alone."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._sampler: Sampler | None = None
        self._readout = Readout([])

    def choose(self, rows: Sequence[Row], logits: Tensor) -> list[Piece | PolymodalError]:
        """logits float [rows, V]; a row whose scores are no numbers gets its error."""
        joint = [index for index, row in enumerate(rows) if row.joint]
        found: dict[int, Piece | PolymodalError] = {}
        if joint:
            some = logits if len(joint) == len(rows) else logits[torch.tensor(joint, device=logits.device)]
            found = dict(zip(joint, self._together([rows[index] for index in joint], some), strict=True))
        for index, row in enumerate(rows):
            if index not in found:
                found[index] = _piece(partial(row.choose, logits[index : index + 1]))
        return [found[index] for index in range(len(rows))]

    def _together(self, rows: list[Row], logits: Tensor) -> list[Piece | PolymodalError]:
        if self._sampler is None or rows != self._rows:
            options = [row.writer.options for row in rows]
            draws = [row.draws for row in rows]
            self._rows, self._readout = rows, Readout(options)
            self._sampler = Sampler(options, [[]] * len(rows), rows[0].banned, draws=draws)
        ids = self._sampler.choose(logits)
        try:
            read = self._readout.read(ids, logits)
        except PolymodalError:  # one of them is no number: each is looked at by itself
            each = zip(rows, ids.split(1), logits.split(1), strict=True)
            return [_piece(partial(_read, *one)) for one in each]
        return [row.writer.accept(*each) for row, each in zip(rows, read, strict=True)]


def _read(row: Row, ids: Tensor, logits: Tensor) -> Piece:
    return row.writer.accept(*Readout([row.writer.options]).read(ids, logits)[0])


def _piece(make: Callable[[], Piece]) -> Piece | PolymodalError:
    try:
        return make()
    except PolymodalError as problem:
        return problem


class SharedBatch:
    """Rows of many requests; `step` computes the next logits of all.  compiled: by a graph of it, where it is one."""

    def __init__(self, model: MultimodalLM, compiled: CompiledStep | None = None) -> None:
        self.rows: list[Row] = []
        self.chooser = Chooser()
        self.cache = RowCache(model.backbone.new_cache)
        self._model, self._compiled = model, compiled
        self._position = torch.empty(0, dtype=torch.int64)

    def join(self, row: Row, state: DecodeState, index: int = 0, first: int = 0) -> None:
        """Add a row whose prompt row `index` of `state` holds, from a column on; its first token was chosen already."""
        self.cache.join(state.cache, index, first)
        position = state.position[..., index : index + 1]
        self._position = torch.cat((self._position, position), -1) if self.rows else position
        self.rows.append(row)

    def leave(self, row: Row, keep: bool) -> KVCache | None:
        """Remove a row that has ended; keep: returns its keys and values."""
        index = self.rows.index(row)
        kept = self.cache.row(index) if keep else None
        self.cache.leave(index, wipe=row.writer.finish_reason == "error")
        order = list(range(len(self.rows)))
        order[index] = order[-1]
        self._position = self._position[..., torch.tensor(order[:-1], dtype=torch.int64, device=self._position.device)]
        self.rows[index] = self.rows[-1]
        self.rows.pop()
        return kept

    def step(self) -> Tensor:
        """Feed every row's last id; logits float32 [rows, V]."""
        weight = self._model.backbone.embed_tokens.weight
        ids = torch.tensor([row.writer.ids[-1] for row in self.rows], device=weight.device)
        if self._compiled is not None:
            logits = self._compiled.logits(ids, self._position, self.cache)
            if logits is not None:
                self._position = self._position + 1
                return logits
        state = DecodeState(
            model=self._model,
            cache=self.cache.view(),
            prompts=[[]] * len(self.rows),
            position=self._position,
            mask=self.cache.mask(weight.device),
            logits=torch.empty(0),
        )
        state.step(ids)
        self.cache.written()
        self._position = state.position
        return state.logits


class OwnBatch:
    """Rows in a state of their own; those that have ended are carried along.

    rows: one for each row of `state`.  firsts: the columns in which their prompts begin.
    """

    def __init__(self, rows: Sequence[Row], state: DecodeState, firsts: Sequence[int]) -> None:
        self.rows = list(rows)
        self.chooser = Chooser()
        self.state = state
        self._all = tuple(rows)
        self._firsts = dict(zip(self._all, firsts, strict=True))

    def leave(self, row: Row, keep: bool) -> KVCache | None:
        """As for SharedBatch."""
        self.rows.remove(row)
        if not keep:
            return None
        cache, first = self.state.cache, self._firsts[row]
        return cache if len(self._all) == 1 else row_of(cache, self._all.index(row), first, self.state.model)

    def step(self) -> Tensor:
        """As for SharedBatch."""
        ids = [row.writer.ids[-1] for row in self._all]
        self.state.step(torch.tensor(ids, device=self.state.position.device))
        going = [index for index, row in enumerate(self._all) if row in self.rows]
        return self.state.logits if len(going) == len(self._all) else self.state.logits[going]


class BeamBatch:
    """The beams of one request, in a state of their own; its answers are known when the search is over."""

    def __init__(self, rows: Sequence[Row], state: DecodeState, banned: Sequence[int]) -> None:
        self.rows = list(rows)
        writer, self._answers = rows[0].writer, len(rows)
        self._constraints, self._prompt = writer.constraints, list(rows[0].prompt)
        self._beams = beams_of(writer.options, writer.limit, writer.constraints)
        self.state = repeat_rows(state, writer.options.beams, writer.limit)
        self._search = Search([self._beams], [self._prompt], self.state.logits, banned)

    def leave(self, row: Row, keep: bool) -> KVCache | None:
        """As for SharedBatch; what the beams have written is of no use to others."""
        self.rows.remove(row)
        return None

    def step(self) -> list[list[Piece]] | None:
        """Go on by one token; at the end the pieces of each answer.  Raises NotFinite."""
        chosen = self._search.advance(self.state.logits)
        if chosen is None:
            best = best_generations(self._beams, self._prompt, self._constraints, self._answers)
            return [_pieces(answer, found) for answer, found in enumerate(best)]
        parents, ids = chosen
        self.state.cache.reorder(parents)
        self.state.step(ids)
        return None


def row_of(cache: KVCache, index: int, first: int, model: MultimodalLM) -> KVCache:
    """A copy of one row's keys and values from a column on."""
    kept = model.backbone.new_cache(1, cache.length - first)
    kept.copy_from(cache, of=(slice(index, index + 1), slice(first, cache.length)))
    kept.advance(kept.capacity)
    return kept


def _pieces(answer: int, found: Generation) -> list[Piece]:
    """The tokens of an answer that is known as a whole; the last one has its text."""
    pieces = [Piece(row=answer, id=index, text="") for index in found.ids]
    pieces[-1] = replace(pieces[-1], text=found.text or "", finish_reason=found.finish_reason)
    return pieces
