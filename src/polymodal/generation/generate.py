"""Writing answers: prefill a batch, then choose, show and feed one token after another.

    batch -> start (prefill) -> logits -> Sampler -> ids -> TokenStream -> StopStrings -> Piece, row by row
                                  ^------------- step(ids) <---'

`stream` yields a Piece for each token of each row; `generate` collects them.  Rows are independent: an answer does
not depend on who else is in the batch.  A row ends at an end token, a stop string, or its length.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from polymodal.errors import ConfigError
from polymodal.generation.beam_search import beam_search
from polymodal.generation.decode_state import CHUNK, DecodeState, room, start
from polymodal.generation.output import (
    GREEDY,
    UNCONSTRAINED,
    Allowed,
    DecodingConstraints,
    Generation,
    Piece,
    Writer,
    collected,
    per_row,
    unended,
)
from polymodal.generation.sampling import Sampler, SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM


def generate(
    model: MultimodalLM,
    batch: Mapping[str, Any],
    options: SamplingOptions | Sequence[SamplingOptions] = GREEDY,
    constraints: DecodingConstraints = UNCONSTRAINED,
    chunk: int = CHUNK,
) -> list[Generation]:
    """Answers to a processor's batch (`processor(messages, generate=True)`), one for each row.

    options: one for all rows, or one for each.  chunk: prompt tokens that go through the backbone at once.
    Raises: ConfigError for a batch padded on the right or options that do not fit, PromptError for a prompt that
    does not fit.
    """
    rows = per_row(options, len(batch["input_ids"]))
    if any(option.beams > 1 for option in rows):
        return beam_search(model, batch, rows, constraints, chunk)
    pieces: list[list[Piece]] = [[] for _ in rows]
    for piece in stream(model, batch, rows, constraints, chunk):
        pieces[piece.row].append(piece)
    mask = batch.get("attention_mask")
    length = len(batch["input_ids"][0])
    prompts = [length] * len(rows) if mask is None else mask.sum(-1).tolist()
    return [collected(found, prompt, constraints) for found, prompt in zip(pieces, prompts, strict=True)]


@torch.inference_mode()
def stream(
    model: MultimodalLM,
    batch: Mapping[str, Any],
    options: SamplingOptions | Sequence[SamplingOptions] = GREEDY,
    constraints: DecodingConstraints = UNCONSTRAINED,
    chunk: int = CHUNK,
) -> Iterator[Piece]:
    """Like `generate`, token by token: every step yields one Piece for each row that still goes on."""
    rows = per_row(options, len(batch["input_ids"]))
    if any(option.beams > 1 for option in rows):
        raise ConfigError("stream: beam search knows its answer only at the end; use generate")
    running = start(model, batch, [option.max_tokens for option in rows], chunk, constraints.allow_past_context)
    yield from answer(running, rows, constraints)


@torch.inference_mode()
def answer(
    running: DecodeState, options: Sequence[SamplingOptions], constraints: DecodingConstraints
) -> Iterator[Piece]:
    """Pieces of all rows until each has ended; the last token of all is chosen but not fed to the cache."""
    lengths = [len(prompt) for prompt in running.prompts]
    limits = room(running.model, lengths, [o.max_tokens for o in options], constraints.allow_past_context)
    rules = _rules(constraints.allowed, len(options))
    writers = [Writer(row=i, options=o, limit=limits[i], constraints=constraints) for i, o in enumerate(options)]
    # A placeholder in an answer would be an item without a value.
    banned = [] if constraints.placeholders else running.model.written_placeholders()
    sampler = Sampler(options, running.seen, banned=banned)
    while True:
        allowed = None if rules is None else [rule(w.ids) for rule, w in zip(rules, writers, strict=True)]
        ids = sampler.choose(unended(running.logits, writers), allowed)
        for writer, index in zip(writers, ids, strict=True):
            if writer.finish_reason is None:
                yield writer.accept(index, running.logits[writer.row])
        if all(writer.finish_reason is not None for writer in writers):
            return
        running.step(ids)


def _rules(allowed: Allowed | Sequence[Allowed] | None, rows: int) -> Sequence[Allowed] | None:
    """One rule for each row."""
    if allowed is None:
        return None
    if callable(allowed):
        return [allowed] * rows
    if len(allowed) != rows:
        raise ConfigError(f"generate: {len(allowed)} rules for {rows} rows; give one, or one for each")
    return allowed
