"""Writing answers to a batch, the plain loop: prefill it, then choose, show and feed one token after another.

    batch -> prefill_batch -> logits -> Sampler -> ids -> Readout -> TokenStream -> StopStrings -> Piece, row by row
                                  ^--- step(ids) <----'

The ids stay on the device for the next step; the host reads them once a step, for all rows together.
Rows are independent: an answer does not depend on who else is in the batch.  A row ends at an end token, a stop
string, or its length.  Conversations are answered by `engine`, which gives the same ids.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generation.beam_search import beam_search
from polymodal.generation.decode_state import CHUNK, DecodeState, max_new_tokens, prefill_batch, repeat_rows
from polymodal.generation.output import (
    GREEDY,
    UNCONSTRAINED,
    Allowed,
    DecodingConstraints,
    Generation,
    Piece,
    Writer,
    collect,
    per_row,
    repeat_options,
)
from polymodal.generation.sampler import Readout, Sampler
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM


@torch.inference_mode()
def generate(
    model: MultimodalLM,
    batch: Mapping[str, Any],
    options: SamplingOptions | Sequence[SamplingOptions] = GREEDY,
    constraints: DecodingConstraints = UNCONSTRAINED,
    chunk: int = CHUNK,
    sequences: int = 1,
) -> list[Generation]:
    """Answers to a processor's batch (`processor(messages, generate=True)`), one for each row.

    options: one for all rows, or one for each.  chunk: prompt tokens that go through the backbone at once.
    sequences: answers to each row, one after another: the best of its beams, or samples, of which the k-th has the
    row's seed + k.
    Raises: ConfigError for a batch padded on the right or options that do not fit, PromptError for a prompt that
    does not fit.
    """
    rows = per_row(options, len(batch["input_ids"]))
    if any(option.beams > 1 for option in rows):
        return beam_search(model, batch, rows, constraints, chunk, sequences)
    max_tokens = [option.max_tokens for option in rows]
    state = prefill_batch(model, batch, max_tokens, chunk, constraints.allow_past_context)
    prompts = [len(prompt) for prompt in state.prompts for _ in range(sequences)]
    if sequences > 1:  # the prompt is read once for all of them
        state = repeat_rows(state, sequences, max(max_tokens))
        rows = repeat_options(rows, sequences)
    pieces: list[list[Piece]] = [[] for _ in rows]
    for piece in answer(state, rows, constraints):
        pieces[piece.row].append(piece)
    return [collect(found, prompt, constraints) for found, prompt in zip(pieces, prompts, strict=True)]


@torch.inference_mode()
def answer(state: DecodeState, options: Sequence[SamplingOptions], constraints: DecodingConstraints) -> Iterator[Piece]:
    """Pieces of all rows until each has ended; the last token of all is chosen but not fed to the cache."""
    lengths = [len(prompt) for prompt in state.prompts]
    limits = max_new_tokens(state.model, lengths, [o.max_tokens for o in options], constraints.allow_past_context)
    writers = [Writer(row=i, options=o, limit=limits[i], constraints=constraints) for i, o in enumerate(options)]
    # A placeholder in an answer would be an item without a value.
    banned = [] if constraints.placeholders else state.model.placeholders_in_vocabulary()

    def step(ids: Tensor) -> Tensor:
        state.step(ids)
        return state.logits

    yield from decode(state.logits, step, writers, state.seen, banned)


def decode(
    logits: Tensor,
    step: Callable[[Tensor], Tensor],
    writers: Sequence[Writer],
    prompts: Sequence[Sequence[int]],
    banned: Sequence[int] = (),
) -> Iterator[Piece]:
    """The loop itself, for every shape of model.  logits [B, V] behind the prompts; step(ids int64 [B]) -> the next.

    prompts: ids of each row that a repetition penalty counts.  banned: ids never written.
    """
    options, constraints = [writer.options for writer in writers], writers[0].constraints
    rules = _rules(constraints.allowed, len(writers))
    sampler, readout = Sampler(options, prompts, banned, constraints.ends), Readout(options)
    while True:
        allowed = None if rules is None else [rule(w.ids) for rule, w in zip(rules, writers, strict=True)]
        ids = sampler.choose(logits, allowed, [writer.ids for writer in writers])
        for writer, found in zip(writers, readout.read(ids, logits), strict=True):
            if writer.finish_reason is None:
                yield writer.accept(*found)
        if all(writer.finish_reason is not None for writer in writers):
            return
        logits = step(ids)


def _rules(allowed: Allowed | Sequence[Allowed] | None, rows: int) -> Sequence[Allowed] | None:
    """One rule for each row."""
    if allowed is None:
        return None
    if callable(allowed):
        return [allowed] * rows
    if len(allowed) != rows:
        raise ConfigError(f"generate: {len(allowed)} rules for {rows} rows; give one, or one for each")
    return allowed
