"""Beam search: keep the most probable unfinished answers of each row, and the best finished ones.

Flow: prefill each row once -> copy its cache for every beam -> at each step extend all beams by all tokens, keep
the best that go on (beams) and those that ended (finished) -> best finished answer of each row.  With a temperature
the continuations are drawn, by the probabilities of all beams together, and the best of those drawn are kept.
A finished answer scores the sum of its log-probabilities / length ** length_penalty.  A row is done when its best
open beam, scored at its present length, is worse than the worst of as many finished answers as there are beams.
Traps: only the `beams` likeliest continuations may finish, so that an unlikely end cannot win by being short; enough
others are looked at for every beam to go on.  Length counts generated tokens, the end token included.  An answer that
completes a stop text ends as by an end token, but no more is looked at for that: a row whose beams all do so is done.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError, NotFinite
from polymodal.generation.decode_state import CHUNK, max_new_tokens, prefill_batch, repeat_rows
from polymodal.generation.logit_rules import NEVER, LogitRuleTable
from polymodal.generation.output import DecodingConstraints, Generation
from polymodal.generation.sampler import generator_of
from polymodal.generation.sampling import OptionTable, SamplingOptions, repetition_penalty
from polymodal.generation.stopping import StopStrings, stop_finder
from polymodal.models.multimodal_lm import MultimodalLM


@dataclass(kw_only=True)
class Beams:
    """The search of one row. open: (ids, score) of its beams; finished: (score, ids), best first.

    limit: longest answer.  ends: ids that end one.  stopped(ids): whether an answer holds a stop text.
    """

    options: SamplingOptions
    limit: int
    ends: frozenset[int]
    stopped: Callable[[list[int]], bool] = lambda ids: False
    open: list[tuple[list[int], float]] = field(default_factory=lambda: [([], 0.0)])
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def extend(self, likeliest: Sequence[tuple[int, float]], vocabulary: int) -> list[int]:
        """Take one step; returns the parent of each beam.

        likeliest: (parent * vocabulary + token, log-probability of that continuation), best first.
        """
        beams = self.options.beams
        open_beams: list[tuple[list[int], float]] = []
        parents: list[int] = []
        for rank, (index, score) in enumerate(likeliest):
            parent, token = divmod(index, vocabulary)
            if score == NEVER:
                continue
            ids = [*self.open[min(parent, len(self.open) - 1)][0], token]
            if token in self.ends or len(ids) >= self.limit or self.stopped(ids):
                if rank < beams and not self.done:
                    self.finished.append((score / len(ids) ** self.options.length_penalty, ids))
            elif len(open_beams) < beams:
                open_beams.append((ids, score))
                parents.append(parent)
        self.finished = sorted(self.finished, key=lambda answer: -answer[0])[:beams]
        if not open_beams:
            self.done = True
            return list(range(beams))
        self.open = open_beams
        if len(self.finished) == beams and not self.done:
            self.done = self.options.early_stopping is True or self._reachable() <= self.finished[-1][0]
        return parents + [parents[-1]] * (beams - len(parents))

    def _reachable(self) -> float:
        """The best score that an open beam may still have: at its present length, or for "never" at the best one."""
        ids, score = self.open[0]
        penalty = self.options.length_penalty
        longest = self.options.early_stopping == "never" and penalty > 0
        return score / (self.limit if longest else len(ids)) ** penalty

    @property
    def scores(self) -> list[float]:
        """Scores of the open beams; slots without one can never be chosen."""
        return [score for _, score in self.open] + [NEVER] * (self.options.beams - len(self.open))

    @property
    def written(self) -> list[list[int]]:
        """The ids of each beam, the worst one's in slots without one."""
        ids = [beam for beam, _ in self.open]
        return ids + [ids[-1]] * (self.options.beams - len(ids))

    @property
    def newest(self) -> list[int]:
        """The last id of each of them; 0 before the first step."""
        return [ids[-1] if ids else 0 for ids in self.written]


def beams_of(options: SamplingOptions, limit: int, constraints: DecodingConstraints) -> Beams:
    """The search of a row before its first step.  Raises ConfigError for stop texts without a tokenizer."""
    if not options.stop:
        return Beams(options=options, limit=limit, ends=constraints.ends)
    holds = stop_finder(options.stop, constraints.tokenizer)
    return Beams(options=options, limit=limit, ends=constraints.ends, stopped=holds)


@torch.inference_mode()
def beam_search(
    model: MultimodalLM,
    batch: Mapping[str, Any],
    options: Sequence[SamplingOptions],
    constraints: DecodingConstraints,
    chunk: int = CHUNK,
    sequences: int = 1,
) -> list[Generation]:
    """The `sequences` best answers of each row.

    Raises ConfigError where rows have different numbers of beams, or `sequences` is above it.
    """
    beams = options[0].beams
    if any(option.beams != beams for option in options) or constraints.allowed is not None:
        raise ConfigError("beam search: all rows need the same number of beams, and no rule for allowed ids")
    if sequences > beams:
        raise ConfigError(f"beam search: {beams} beams find at most that many answers, {sequences} are asked for")
    state = prefill_batch(model, batch, [1] * len(options), chunk, constraints.allow_past_context)
    lengths = [len(prompt) for prompt in state.prompts]
    limits = max_new_tokens(model, lengths, [option.max_tokens for option in options], constraints.allow_past_context)
    prompts, seen = state.prompts, state.seen
    state = repeat_rows(state, beams, max(limits))
    banned = [] if constraints.placeholders else model.placeholders_in_vocabulary()
    rows = [beams_of(option, limit, constraints) for option, limit in zip(options, limits, strict=True)]

    def step(parents: Tensor, ids: Tensor) -> Tensor:
        state.cache.reorder(parents)
        state.step(ids)
        return state.logits

    search(rows, seen, state.logits, step, banned)
    best = [best_generations(row, prompt, constraints, sequences) for row, prompt in zip(rows, prompts, strict=True)]
    return [answer for answers in best for answer in answers]


def search(
    rows: Sequence[Beams],
    prompts: Sequence[list[int]],
    logits: Tensor,
    step: Callable[[Tensor, Tensor], Tensor],
    banned: Sequence[int] = (),
) -> None:
    """Run all rows to their end.  logits [rows * beams, V] behind the prompt, every row `beams` times.

    step(parents int64 [rows * beams], ids int64 [rows * beams]) -> logits: line i goes on from line parents[i], with
    ids[i] written.
    """
    going = Search(rows, prompts, logits, banned)
    while (chosen := going.advance(logits)) is not None:
        logits = step(*chosen)


class Search:
    """All rows of a beam search, one step at a time; the host reads and sends once a step, for all of them.

    logits [rows * beams, V]: those that the first step will be taken with, for their width and device.
    """

    def __init__(
        self, rows: Sequence[Beams], prompts: Sequence[list[int]], logits: Tensor, banned: Sequence[int] = ()
    ) -> None:
        self._all = rows
        beams, vocabulary = rows[0].options.beams, logits.shape[-1]
        self._candidates = min(max(2, 1 + len(rows[0].ends)) * beams, beams * vocabulary)
        self._rules = _Rules(rows, prompts, banned, logits)
        self._draw = _Draw([row.options for row in rows], self._candidates)
        self._scores = torch.tensor([row.scores for row in rows], device=logits.device)

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """Take a step with the logits of all beams: the parents and new ids of each, None when all rows are done."""
        rows, beams, count = self._all, self._all[0].options.beams, self._candidates
        written = [ids for row in rows for ids in row.written]
        logprobs = self._rules.apply(torch.log_softmax(logits.float(), -1), written).unflatten(0, (len(rows), beams))
        values, indices = self._draw((logprobs + self._scores[..., None]).flatten(1))
        parents: list[int] = []
        # A double holds every index and every float32 exactly, so that one copy brings both.
        for i, line in enumerate(torch.cat((indices.double(), values.double()), 1).tolist()):
            likeliest = list(zip(map(int, line[:count]), line[count:], strict=True))
            if math.isnan(likeliest[0][1]):  # NaN is larger than any number for topk
                raise NotFinite("the model's scores are NaN or infinite")
            parents += [i * beams + parent for parent in rows[i].extend(likeliest, logits.shape[-1])]
        if all(row.done for row in rows):
            return None
        chosen = [[score, id] for row in rows for score, id in zip(row.scores, row.newest, strict=True)]
        packed = torch.tensor(
            [[*each, parent] for each, parent in zip(chosen, parents, strict=True)],
            dtype=torch.float64,
            device=logits.device,
        )
        self._scores = packed[:, 0].float().view(len(rows), beams)
        ids, origin = packed[:, 1].long(), packed[:, 2].long()
        self._rules.advance(origin, ids)
        return origin, ids


class _Draw:
    """The continuations of each row that are looked at: the likeliest, or drawn without replacement.

    A row draws from a generator of its own on the CPU, as a sampler does, so that its neighbours do not matter.
    """

    def __init__(self, options: Sequence[SamplingOptions], count: int) -> None:
        self._count = count
        self._generators = [None if option.greedy else generator_of(option.seed) for option in options]
        self._drawn = [index for index, generator in enumerate(self._generators) if generator is not None]

    def __call__(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """scores float [rows, N] -> scores and indices [rows, count], best first."""
        if not self._drawn:
            return scores.topk(self._count)
        # The largest of p / (exponential noise) are a draw without replacement by p; torch.multinomial does the same.
        waits = torch.ones(scores.shape)
        for row in self._drawn:
            waits[row].exponential_(1, generator=self._generators[row])
        rows = torch.tensor(self._drawn, device=scores.device)
        keys = scores.index_copy(0, rows, (scores.softmax(-1) / waits.to(scores.device))[rows])
        indices = keys.topk(self._count).indices
        values, order = scores.gather(1, indices).sort(-1, descending=True)
        return values, indices.gather(1, order)


class _Rules:
    """What changes the log-probabilities [rows * beams, V] of all beams: bans, shortest lengths, penalties, rules, and
    for rows that draw their temperature and filters."""

    def __init__(
        self, rows: Sequence[Beams], prompts: Sequence[list[int]], banned: Sequence[int], logits: Tensor
    ) -> None:
        options = [row.options for row in rows for _ in range(row.options.beams)]
        device, size = logits.device, logits.shape[-1]
        self._banned = torch.tensor(sorted(set(banned)), dtype=torch.int64, device=device)
        self._ends = torch.tensor([id for id in rows[0].ends if 0 <= id < size], dtype=torch.int64, device=device)
        self._shortest = torch.tensor([option.min_tokens for option in options], device=device)[:, None]
        self._longest_wait = max(option.min_tokens for option in options) if rows[0].ends else 0
        self._written = 0
        self._rules = LogitRuleTable(
            [option.rules for option in options],
            [prompt for row, prompt in zip(rows, prompts, strict=True) for _ in range(row.options.beams)],
            [row.limit for row in rows for _ in range(row.options.beams)],
            sorted(rows[0].ends),
        )
        penalties = [option.repetition_penalty for option in options]
        self._penalty = torch.tensor(penalties, device=device)[:, None]
        # One token more than there are ends stays, so that a beam can go on.
        self._table = OptionTable(options, device, keep=1 + max(len(rows[0].ends), 1))
        self._seen: Tensor | None = None
        if set(penalties) != {1.0}:
            seen = torch.zeros(len(rows), size, dtype=torch.bool)
            for row, ids in enumerate(prompts):
                seen[row, [id for id in ids if 0 <= id < size]] = True
            self._seen = seen.to(device).repeat_interleave(rows[0].options.beams, 0)

    def apply(self, logprobs: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """After penalties and rules, without what may not come yet or ever; written: the ids of each beam."""
        if self._written < self._longest_wait:
            early = self._shortest > self._written
            logprobs = logprobs.index_copy(-1, self._ends, logprobs[:, self._ends].masked_fill(early, NEVER))
        if len(self._banned):
            logprobs = logprobs.index_fill(-1, self._banned, NEVER)
        if self._rules:
            logprobs = self._rules.bias(logprobs, written)
        if self._seen is not None:
            logprobs = repetition_penalty(logprobs, self._seen, self._penalty)
        return self._table.filter(self._rules.constrain(logprobs, written) if self._rules else logprobs)

    def advance(self, parents: Tensor, ids: Tensor) -> None:
        """Line i goes on from line parents[i] with ids[i] written."""
        self._written += 1
        if self._seen is not None:
            self._seen = self._seen[parents].scatter_(1, ids[:, None], True)


def best_generations(row: Beams, prompt: list[int], constraints: DecodingConstraints, count: int) -> list[Generation]:
    """The `count` best answers of a row whose search is over."""
    answers = [ids for _, ids in row.finished] + [ids for ids, _ in row.open]
    return [_generation(ids, row, prompt, constraints) for ids in answers[:count]]


def _generation(ids: list[int], row: Beams, prompt: list[int], constraints: DecodingConstraints) -> Generation:
    text = None
    if constraints.tokenizer is not None:
        stops = StopStrings(row.options.stop)
        text = stops.push(constraints.tokenizer.decode([id for id in ids if id not in row.ends])) + stops.finish()
    return Generation(
        ids=tuple(ids),
        text=text,
        finish_reason="stop" if ids[-1] in row.ends or row.stopped(ids) else "length",
        counts={"prompt": len(prompt), "generated": len(ids)},
    )
