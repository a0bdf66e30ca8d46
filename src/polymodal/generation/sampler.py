"""Choosing the next token of every row of a batch: masks, penalties and sampling for all rows at once.

    logits [B, V] -> Sampler.choose -> ids int64 [B], on the device -> Readout.read -> ids (and log-probabilities) here

What a row's options, history, bans and rules ask for lies on the device as tensors, made at the first step.  Nothing is
read back while choosing: the host sees the ids by one copy a step, log-probabilities in the same one.
Traps: every row samples from a generator of its own on the CPU, so that neither its neighbours nor the device change
what it says; random numbers are made and copied in blocks, which gives the same as one at a time.  A row that has ended
goes on sampling until its batch is done.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from polymodal.errors import NotFinite
from polymodal.generation.logit_rules import LogitRuleTable
from polymodal.generation.output import TokenLogprob
from polymodal.generation.sampling import NEVER, OptionTable, SamplingOptions, sample

BLOCK = 64  # random numbers that are copied to the device at once, for each row
MASKS = 32  # masks of allowed ids that are kept on the device


class Sampler:
    """Chooses tokens for the rows of a batch, each by its own options, generator and history.

    prompts: the real ids of each row, which the repetition penalty counts.  banned: ids never written.  ends: ids that
    end an answer, which no row writes before its `min_tokens`.  draws: the random numbers of each row, for rows that go
    on in other company later; each step takes one.
    """

    def __init__(
        self,
        options: Sequence[SamplingOptions],
        prompts: Sequence[Sequence[int]],
        banned: Sequence[int] = (),
        ends: frozenset[int] = frozenset(),
        draws: Sequence[Draws] | None = None,
    ) -> None:
        self._draws = draws
        self._options = tuple(options)
        self._prompts = prompts
        self._banned = sorted({index for index in banned if index >= 0})
        self._ends = sorted(ends)
        self._shortest = max(option.min_tokens for option in options) if ends else 0
        self._step = 0
        self._rows: _Rows | None = None
        limits = [option.max_tokens for option in options]
        self._rules = LogitRuleTable([option.rules for option in options], prompts, limits, self._ends)

    def choose(
        self,
        logits: Tensor,
        allowed: Sequence[Tensor | None] | None = None,
        written: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """logits float [B, V] -> int64 [B] on their device; -1 where the scores are NaN, or infinite where chosen.

        allowed: for each row the only ids that may come (int64 [n]), or None for all.  written: the answer of each row
        so far, which rows with `rules` need.
        """
        if self._rows is None:
            self._rows = _Rows(self._options, self._prompts, self._banned, self._ends, logits, self._draws)
        rows, scores = self._rows, logits
        if self._step < self._shortest:
            early = rows.shortest > self._step
            logits = logits.index_copy(-1, rows.ends, logits[:, rows.ends].masked_fill(early, NEVER))
        if self._banned:
            logits = logits.index_fill(-1, rows.banned, NEVER)
        if allowed is not None and (forbidden := rows.masks.forbidden(allowed)) is not None:
            logits = logits.masked_fill(forbidden, NEVER)
        if self._rules:
            assert written is not None
            logits = rows.table.penalise(self._rules.bias(logits, written), rows.seen)
            logits = rows.table.filter(self._rules.constrain(logits, written))
        else:
            logits = rows.table.filter(rows.table.penalise(logits, rows.seen))
        ids = logits.argmax(-1)
        ids = torch.where(logits.gather(-1, ids[:, None])[:, 0].isnan(), -1, ids)  # NaN counts as the largest
        if rows.sampled is not None:
            ids = ids.index_copy(0, rows.sampled, sample(logits[rows.sampled], rows.uniform(self._step)))
        # NaN is larger than any number for argmax, so that it is chosen where there is one; it fails the comparison.
        chosen = scores.gather(-1, ids.clamp_min(0)[:, None])[:, 0]
        ids = torch.where(chosen < math.inf, ids, -1)
        if rows.seen is not None:
            rows.seen.scatter_(1, ids.clamp_min(0)[:, None], True)
        self._step += 1
        return ids


class Draws:
    """Random numbers of one row, made BLOCK at a time on the CPU.  seed None: others each time."""

    def __init__(self, seed: int | None) -> None:
        self._generator = generator_of(seed)
        self._numbers = torch.empty(0, dtype=torch.float64)

    def take(self, count: int) -> Tensor:
        """The next `count` (at most BLOCK) numbers in [0, 1), float64."""
        if len(self._numbers) < count:
            more = torch.rand(BLOCK, generator=self._generator, dtype=torch.float64)
            self._numbers = torch.cat((self._numbers, more))
        taken, self._numbers = self._numbers[:count], self._numbers[count:]
        return taken


class _Rows:
    """What the rows of a batch keep on the device of its logits."""

    def __init__(
        self,
        options: Sequence[SamplingOptions],
        prompts: Sequence[Sequence[int]],
        banned: list[int],
        ends: list[int],
        logits: Tensor,
        draws: Sequence[Draws] | None,
    ) -> None:
        def on_device(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=logits.device)

        self.table = OptionTable(options, logits.device)
        self.banned, self.ends = on_device(banned), on_device([id for id in ends if 0 <= id < logits.shape[-1]])
        self.shortest = on_device([option.min_tokens for option in options])[:, None]
        self.masks = _Masks(logits)
        sampled = [row for row, option in enumerate(options) if not option.greedy]
        self.sampled = on_device(sampled) if sampled else None
        self._draws = [Draws(options[row].seed) if draws is None else draws[row] for row in sampled]
        self._ahead = BLOCK if draws is None else 1
        self._block = torch.empty(0)
        self.seen: Tensor | None = None
        if self.table.penalised:
            self.seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            history = [(row, id) for row, ids in enumerate(prompts) for id in set(ids) if 0 <= id < logits.shape[-1]]
            if history:
                self.seen[tuple(on_device([pair[axis] for pair in history]) for axis in (0, 1))] = True

    def uniform(self, step: int) -> Tensor:
        """The numbers in [0, 1) of one step, float64 [sampled rows]; called step after step from 0 on."""
        if step % self._ahead == 0:
            numbers = torch.stack([each.take(self._ahead) for each in self._draws], 1)
            self._block = numbers.to(self.banned.device)
        return self._block[step % self._ahead]


class _Masks:
    """Allowed ids as masks of forbidden ones, bool [V].  A rule that gives the same tensor again costs nothing."""

    def __init__(self, logits: Tensor) -> None:
        self._size, self._device = logits.shape[-1], logits.device
        # By identity; the tensor itself is held too, so that its identity is not given to another.
        self._entries: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()
        self._nothing = torch.zeros(self._size, dtype=torch.bool, device=self._device)
        self._last: tuple[list[Tensor | None], Tensor] | None = None

    def forbidden(self, allowed: Sequence[Tensor | None]) -> Tensor | None:
        """bool [B, V] (or [1, V] for all rows), None where everything is allowed."""
        if all(ids is None for ids in allowed):
            return None
        if self._last is None or any(new is not old for new, old in zip(allowed, self._last[0], strict=True)):
            masks = [self._nothing if ids is None else self._mask(ids) for ids in allowed]
            alike = all(mask is masks[0] for mask in masks)
            self._last = list(allowed), masks[0][None] if alike else torch.stack(masks)
        return self._last[1]

    def _mask(self, ids: Tensor) -> Tensor:
        known = self._entries.get(id(ids))
        if known is None:
            mask = torch.ones(self._size, dtype=torch.bool, device=self._device)
            known = self._entries[id(ids)] = (ids, mask.index_fill(0, ids.to(self._device), False))
            if len(self._entries) > MASKS:
                self._entries.popitem(last=False)
        self._entries.move_to_end(id(ids))
        return known[1]


class Readout:
    """Reads the chosen ids of all rows back to the host, with the log-probabilities that rows ask for, by one copy."""

    def __init__(self, options: Sequence[SamplingOptions]) -> None:
        self._counts = [option.logprobs for option in options]
        self._asking = [row for row, count in enumerate(self._counts) if count is not None]
        self._rows: Tensor | None = None

    def read(self, ids: Tensor, logits: Tensor) -> list[tuple[int, TokenLogprob | None]]:
        """ids int64 [B], chosen at `logits` [B, V] (those of the model itself, before penalties and temperature).

        Raises NotFinite for scores that are no numbers.
        """
        if not self._asking:
            return [(_checked(index), None) for index in ids.tolist()]
        if self._rows is None:
            self._rows = torch.tensor(self._asking, device=ids.device)
        logprobs = torch.log_softmax(logits[self._rows].float(), -1)
        chosen = logprobs.gather(-1, ids[self._rows].clamp_min(0)[:, None])
        count = min(max(self._counts[row] or 0 for row in self._asking), logprobs.shape[-1])
        top = logprobs.topk(count)
        # A double holds every id and every float32 exactly, so that one copy brings them all.
        table = torch.cat((chosen.double(), top.values.double(), top.indices.double()), 1)
        values = torch.cat((ids.double(), table.flatten())).tolist()
        found: list[tuple[int, TokenLogprob | None]] = [(_checked(int(index)), None) for index in values[: len(ids)]]
        for line, row in enumerate(self._asking):
            first = len(ids) + line * (1 + 2 * count)
            logprob, *rest = values[first : first + 1 + 2 * count]
            likeliest = zip(map(int, rest[count:]), rest[:count], strict=True)
            kept = tuple(likeliest)[: self._counts[row]]
            found[row] = found[row][0], TokenLogprob(id=found[row][0], logprob=logprob, top=kept)
        return found


def _checked(index: int) -> int:
    if index < 0:
        raise NotFinite("the model's scores are NaN or infinite")
    return index


def generator_of(seed: int | None) -> torch.Generator:
    """Random numbers of one row, on the CPU; None: others each time."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
