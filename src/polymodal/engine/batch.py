"""Rows that write: what each has said and how it chooses, and the batches in which they are computed.

    Row            one answer: writer, sampler, rule; the id that its batch feeds next
    SharedBatch    rows of many requests, in a RowCache; they come and go at any step
    OwnBatch       the answers of one request whose model gives every batch a context (cross-attention, the encoder's
                   output), which rows of other requests cannot share

Trap: a row's choice depends on its own logits, history and random numbers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polymodal.engine.rows import RowCache
from polymodal.errors import PolymodalError
from polymodal.generation.decode_state import DecodeState
from polymodal.generation.output import GREEDY, Allowed, Piece, Writer
from polymodal.generation.sampler import Readout, Sampler
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.cache import KVCache


@dataclass(kw_only=True, eq=False)
class Row:
    """One answer of a request: number `answer` of `request`.  prompt: the ids that a repetition penalty counts."""

    request: int
    answer: int
    writer: Writer
    prompt: Sequence[int]
    allowed: Allowed | None
    banned: Sequence[int]
    _sampler: Sampler | None = field(default=None, init=False)

    @property
    def plain(self) -> bool:
        """Whether the likeliest id is chosen and nothing else asked for, so that all such rows choose together."""
        options = self.writer.options
        return (
            options.greedy
            and options.repetition_penalty == 1
            and options.logprobs is None
            and not options.min_tokens
            and not options.rules.active
            and self.allowed is None
        )

    def choose(self, logits: Tensor) -> Piece:
        """The next piece from logits [1, V].  Raises WeightsError for scores that are no numbers."""
        options, ends = self.writer.options, self.writer.constraints.ends
        if self._sampler is None:
            self._sampler = Sampler([options], [self.prompt], self.banned, ends)
        rules = None if self.allowed is None else [self.allowed(self.writer.ids)]
        ids = self._sampler.choose(logits, rules, [self.writer.ids])
        return self.writer.accept(*Readout([options]).read(ids, logits)[0])


def choose(rows: Sequence[Row], logits: Tensor) -> list[Piece | PolymodalError]:
    """The next piece of every row, from logits float [rows, V]; a row whose scores are no numbers gets its error."""
    plain = [index for index, row in enumerate(rows) if row.plain]
    found: dict[int, Piece | PolymodalError] = {}
    if len(plain) > 1:
        greedy = [GREEDY] * len(plain)
        chosen = logits if len(plain) == len(rows) else logits[torch.tensor(plain, device=logits.device)]
        ids = Sampler(greedy, [[]] * len(plain), rows[plain[0]].banned).choose(chosen)
        try:
            read = Readout(greedy).read(ids, chosen)
        except PolymodalError:
            read = []  # one of them is no number: each is looked at by itself
        found = {index: rows[index].writer.accept(*each) for index, each in zip(plain, read, strict=False)}
    for index, row in enumerate(rows):
        if index not in found:
            try:
                found[index] = row.choose(logits[index : index + 1])
            except PolymodalError as problem:
                found[index] = problem
    return [found[index] for index in range(len(rows))]


class SharedBatch:
    """Rows of many requests; `step` computes the next logits of all."""

    def __init__(self, model: MultimodalLM) -> None:
        self.rows: list[Row] = []
        self.cache = RowCache(model.backbone.new_cache)
        self._model = model
        self._position = torch.empty(0, dtype=torch.int64)

    def join(self, row: Row, state: DecodeState) -> None:
        """Add a row whose prompt `state` (of one row) holds; its first token was chosen already."""
        self.cache.join(state.cache)
        self._position = torch.cat((self._position, state.position), -1) if self.rows else state.position
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
        state = DecodeState(
            model=self._model,
            cache=self.cache.view(),
            prompts=[[]] * len(self.rows),
            position=self._position,
            mask=self.cache.mask(weight.device),
            logits=torch.empty(0),
        )
        state.step(torch.tensor([row.writer.ids[-1] for row in self.rows], device=weight.device))
        self.cache.written()
        self._position = state.position
        return state.logits


class OwnBatch:
    """The answers of one request in a state of their own; those that have ended are carried along."""

    def __init__(self, rows: Sequence[Row], state: DecodeState) -> None:
        self.rows = list(rows)
        self.state = state
        self._all = tuple(rows)

    def leave(self, row: Row, keep: bool) -> KVCache | None:
        """As for SharedBatch."""
        self.rows.remove(row)
        return self.state.cache if keep and len(self._all) == 1 else None

    def step(self) -> Tensor:
        """As for SharedBatch."""
        self.state.step(torch.tensor([row.writer.ids[-1] for row in self._all], device=self.state.position.device))
        going = [index for index, row in enumerate(self._all) if row in self.rows]
        return self.state.logits if len(going) == len(self._all) else self.state.logits[going]
