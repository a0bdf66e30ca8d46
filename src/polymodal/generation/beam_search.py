"""Beam search: keep the most probable unfinished answers of each row, and the best finished ones.

Flow: prefill each row once -> copy its cache for every beam -> at each step extend all beams by all tokens, keep
the best that go on (beams) and those that ended (finished) -> best finished answer of each row.
A finished answer scores the sum of its log-probabilities / length ** length_penalty.  A row is done when its best
open beam, scored at its present length, is worse than the worst of as many finished answers as there are beams.
Traps: only the `beams` likeliest continuations may finish, so that an unlikely end cannot win by being short; enough
others are looked at for every beam to go on.  Length counts generated tokens, the end token included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generation.decode_state import CHUNK, DecodeState, copied, room, start
from polymodal.generation.output import DecodingConstraints, Generation
from polymodal.generation.sampling import NEVER, SamplingOptions, repetition_penalty
from polymodal.models.multimodal_lm import MultimodalLM


@dataclass(kw_only=True)
class Beams:
    """The search of one row. open: (ids, score) of its beams; finished: (score, ids), best first."""

    options: SamplingOptions
    limit: int
    ends: frozenset[int]
    open: list[tuple[list[int], float]] = field(default_factory=lambda: [([], 0.0)])
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def extend(self, scores: Tensor) -> list[int]:
        """Take one step.  scores [beams, V]: log-probability of each beam with each token; returns parent beams."""
        beams, vocabulary = scores.shape
        wanted = max(2, 1 + len(self.ends)) * beams
        best = scores.flatten().topk(min(wanted, scores.numel()))
        open_beams: list[tuple[list[int], float]] = []
        parents: list[int] = []
        for rank, (place, score) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
            parent, index = divmod(place, vocabulary)
            if score == NEVER:
                continue
            ids = [*self.open[min(parent, len(self.open) - 1)][0], index]
            if index in self.ends or len(ids) >= self.limit:
                if rank < beams and not self.done:
                    self.finished.append((score / len(ids) ** self.options.length_penalty, ids))
            elif len(open_beams) < beams:
                open_beams.append((ids, score))
                parents.append(parent)
        self.finished = sorted(self.finished, key=lambda found: -found[0])[:beams]
        if not open_beams:
            self.done = True
            return list(range(beams))
        self.open = open_beams
        reachable = open_beams[0][1] / len(open_beams[0][0]) ** self.options.length_penalty
        self.done = self.done or (len(self.finished) == beams and reachable <= self.finished[-1][0])
        return parents + [parents[-1]] * (beams - len(parents))

    def tensor_scores(self, beams: int, device: torch.device) -> Tensor:
        """Scores [beams, 1] of the open beams; places without one can never be chosen."""
        scores = [score for _, score in self.open] + [NEVER] * (beams - len(self.open))
        return torch.tensor(scores, dtype=torch.float32, device=device)[:, None]


@torch.inference_mode()
def beam_search(
    model: MultimodalLM,
    batch: Mapping[str, Any],
    options: Sequence[SamplingOptions],
    constraints: DecodingConstraints,
    chunk: int = CHUNK,
) -> list[Generation]:
    """The best answer of each row; all rows use the same number of beams.  Raises ConfigError otherwise."""
    beams = options[0].beams
    if any(option.beams != beams for option in options) or constraints.allowed is not None:
        raise ConfigError("beam search: all rows need the same number of beams, and no rule for allowed ids")
    running = start(model, batch, [1] * len(options), chunk, constraints.allow_past_context)
    lengths = [len(prompt) for prompt in running.prompts]
    limits = room(model, lengths, [option.max_tokens for option in options], constraints.allow_past_context)
    prompts, seen = running.prompts, running.seen
    running = expand_beams(running, beams, max(limits))
    banned = [] if constraints.placeholders else model.written_placeholders()
    rows = [Beams(options=o, limit=n, ends=constraints.ends) for o, n in zip(options, limits, strict=True)]

    def step(parents: Tensor, ids: list[int]) -> Tensor:
        running.cache.reorder(parents)
        running.step(ids)
        return running.logits

    search(rows, seen, running.logits, step, banned)
    return [found(row, prompt, constraints) for row, prompt in zip(rows, prompts, strict=True)]


def search(
    rows: Sequence[Beams],
    prompts: Sequence[list[int]],
    logits: Tensor,
    step: Callable[[Tensor, list[int]], Tensor],
    banned: Sequence[int] = (),
) -> None:
    """Run all rows to their end.  logits [rows * beams, V] behind the prompt, every row `beams` times.

    step(parents int64 [rows * beams], ids) -> logits: line i goes on from line parents[i], with ids[i] written.
    """
    beams = rows[0].options.beams
    while True:
        scores = torch.log_softmax(logits.float(), -1).unflatten(0, (len(rows), beams))
        parents: list[int] = []
        for i, row in enumerate(rows):
            scored = _penalised(scores[i], row, prompts[i], banned)
            parents += [i * beams + parent for parent in row.extend(scored + row.tensor_scores(beams, scored.device))]
        if all(row.done for row in rows):
            return
        ids = [beam[0][-1] if beam[0] else 0 for row in rows for beam in _padded(row.open, beams)]
        logits = step(torch.tensor(parents, device=logits.device), ids)


def expand_beams(running: DecodeState, times: int, capacity: int) -> DecodeState:
    """Every row `times` times, with room for `capacity` more tokens."""
    cache = running.model.backbone.new_cache(running.rows * times, running.cache.length + capacity)
    mask = running.mask
    if mask is not None:
        held = mask[:, : running.cache.length].repeat_interleave(times, 0)
        mask = torch.nn.functional.pad(held, (0, capacity), value=True)
    return DecodeState(
        model=running.model,
        cache=copied(running.cache, cache, times),
        prompts=[prompt for prompt in running.prompts for _ in range(times)],
        position=running.position.repeat_interleave(times, -1),
        mask=mask,
        context=running.context,
        logits=running.logits.repeat_interleave(times, 0),
    )


def _penalised(logprobs: Tensor, row: Beams, prompt: list[int], banned: Sequence[int]) -> Tensor:
    """Log-probabilities [beams, V] of one row after the repetition penalty, without what may not come yet or ever."""
    if len(row.open[0][0]) < row.options.min_tokens:
        banned = [*banned, *row.ends]
    if banned:
        logprobs = logprobs.index_fill(-1, torch.tensor(list(banned), device=logprobs.device), NEVER)
    if row.options.repetition_penalty == 1:
        return logprobs
    seen = torch.zeros(logprobs.shape, dtype=torch.bool, device=logprobs.device)
    for beam, (ids, _) in enumerate(row.open):
        seen[beam, prompt + ids] = True
    return repetition_penalty(logprobs, seen, row.options.repetition_penalty)


def _padded(beams: list, count: int) -> list:
    return beams + [beams[-1]] * (count - len(beams))


def found(row: Beams, prompt: list[int], constraints: DecodingConstraints) -> Generation:
    """The best answer of a row whose search is over."""
    ids = row.finished[0][1] if row.finished else row.open[0][0]
    text = (
        None if constraints.tokenizer is None else constraints.tokenizer.decode([i for i in ids if i not in row.ends])
    )
    return Generation(
        ids=tuple(ids),
        text=text,
        finish_reason="stop" if ids[-1] in row.ends else "length",
        counts={"prompt": len(prompt), "generated": len(ids)},
    )
