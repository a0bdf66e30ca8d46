"""Texts written by a VisionEncoderDecoder: greedy, sampled or by beams, token by token with a cache.

    batch -> source (picture states, or a question about them) -> prompt -> cache -> logits -> Sampler or Beams -> ids

BLIP (arXiv 2201.12086), ALBEF's VQA (arXiv 2107.07651).
Traps, all as published: the prompt's first id is replaced by the start id and its last ([SEP]) is cut before writing;
in writing the padding of a question is read like its words; a padded prompt counts its positions by the mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError, PromptError
from polymodal.generation.beam_search import Beams, found, search
from polymodal.generation.decode_state import copied
from polymodal.generation.output import GREEDY, DecodingConstraints, Generation, Writer, collected, per_row, unended
from polymodal.generation.sampling import Sampler, SamplingOptions
from polymodal.models.vision_encoder_decoder import VisionEncoderDecoder, batch_ids, known_inputs
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec

Source = tuple[Tensor, MaskSpec | None]  # what is read, and which of it


@torch.inference_mode()
def continue_prompt(
    model: VisionEncoderDecoder, batch: Mapping[str, Any], options: SamplingOptions, constraints: DecodingConstraints
) -> tuple[Tensor, list[Generation]]:
    """What the decoder starts from, ids [B, P], and what it writes behind it."""
    given = known_inputs(batch)
    answers = write(model, given, options, constraints)
    prompt, _ = _prompt(model, given, len(answers), batch_ids(given, "pixel_values").device)
    return prompt, answers


@torch.inference_mode()
def write(
    model: VisionEncoderDecoder,
    batch: Mapping[str, Any],
    options: SamplingOptions | Sequence[SamplingOptions] = GREEDY,
    constraints: DecodingConstraints | None = None,
) -> list[Generation]:
    """Texts for a batch, one row each; `Generation.ids` are what was written, the end included.

    `constraints` None: texts end at [SEP].  Raises PromptError when nothing more fits the decoder's positions.
    """
    batch = known_inputs(batch)
    source = model.encode_image(batch)
    rows = len(source)
    if model.question is not None:
        source = model.encode_question(source, batch)
    prompt, mask = _prompt(model, batch, rows, source.device)
    choices = per_row(options, rows)
    room = model.decoder.config.positions - prompt.shape[1]
    if room < 1:
        raise PromptError(f"VisionEncoderDecoder: a prompt of {prompt.shape[1]} tokens leaves no position to write at")
    end = constraints or DecodingConstraints(eos=frozenset({model.ids.sep}))
    writers = [
        Writer(row=i, options=choice, limit=min(choice.max_tokens, room), constraints=end)
        for i, choice in enumerate(choices)
    ]
    words = batch.get("attention_mask") if model.question is not None and model.rules.masked else None
    seen = None if words is None else MaskSpec(causal=False, attention_mask=words)
    if any(choice.beams > 1 for choice in choices):
        return _search(model, prompt, mask, (source, seen), writers)
    pieces = _write(model, prompt, mask, (source, seen), writers)
    lengths = mask.sum(-1).tolist()
    return [collected(parts, length, end) for parts, length in zip(pieces, lengths, strict=True)]


def _write(
    model: VisionEncoderDecoder, prompt: Tensor, mask: Tensor, source: Source, writers: list[Writer]
) -> list[list[Any]]:
    """Prefill, then token by token; pieces of each row."""
    cache, places, logits = _begin(model, prompt, mask, source, max(writer.limit for writer in writers))
    prompts = _seen(prompt, mask)
    sampler = Sampler([writer.options for writer in writers], prompts)
    pieces: list[list[Any]] = [[] for _ in writers]
    while True:
        ids = sampler.choose(unended(logits, writers))
        for writer, index in zip(writers, ids, strict=True):
            if writer.finish_reason is None:
                pieces[writer.row].append(writer.accept(index, logits[writer.row]))
        if all(writer.finish_reason is not None for writer in writers):
            return pieces
        places = places[:, -1:] + 1
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
        logits = _step(model, torch.tensor(ids, device=mask.device)[:, None], places, mask, cache, source)


def _search(
    model: VisionEncoderDecoder, prompt: Tensor, mask: Tensor, source: Source, writers: list[Writer]
) -> list[Generation]:
    """Prefill, then beam search; the best text of each row."""
    beams, longest = writers[0].options.beams, max(writer.limit for writer in writers)
    if any(writer.options.beams != beams for writer in writers):
        raise ConfigError("VisionEncoderDecoder: all rows need the same number of beams")
    held, places, logits = _begin(model, prompt, mask, source, 0)
    size = len(prompt) * beams
    cache = copied(held, model.decoder.new_cache(size, prompt.shape[1] + longest), beams)
    states, seen = source
    words = None if seen is None or seen.attention_mask is None else seen.attention_mask
    if words is not None:
        seen = MaskSpec(causal=False, attention_mask=words.repeat_interleave(beams, 0))
    wide = states.repeat_interleave(beams, 0), seen
    shown, last = mask.repeat_interleave(beams, 0), places[:, -1:].repeat_interleave(beams, 0)

    def step(parents: Tensor, ids: list[int]) -> Tensor:
        nonlocal shown, last
        cache.reorder(parents)
        shown, last = torch.cat((shown, shown.new_ones(size, 1)), 1), last + 1
        return _step(model, torch.tensor(ids, device=last.device)[:, None], last, shown, cache, wide)

    rows = [Beams(options=w.options, limit=w.limit, ends=w.constraints.ends) for w in writers]
    prompts = _seen(prompt, mask)
    search(rows, prompts, logits.repeat_interleave(beams, 0), step)
    return [found(row, ids, w.constraints) for row, ids, w in zip(rows, prompts, writers, strict=True)]


def _begin(
    model: VisionEncoderDecoder, prompt: Tensor, mask: Tensor, source: Source, room: int
) -> tuple[KVCache, Tensor, Tensor]:
    """The prompt read: the cache with `room` for more, the places of its tokens, logits behind it."""
    cache = model.decoder.new_cache(len(prompt), prompt.shape[1] + room)
    places = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
    return cache, places, _step(model, prompt, places, mask, cache, source)


def _step(
    model: VisionEncoderDecoder, ids: Tensor, places: Tensor, mask: Tensor, cache: KVCache, source: Source
) -> Tensor:
    """Logits `[B, V]` at the last of `ids [B, T]`."""
    x = model.decoder.embed(ids, position_ids=places)
    states, seen = source
    rule = MaskSpec(attention_mask=mask)
    hidden = model.decoder.run(x, rule, source=states, source_mask=seen, cache=cache)
    return model.compute_logits(hidden[:, -1])


def _prompt(
    model: VisionEncoderDecoder, batch: Mapping[str, Any], rows: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the decoder starts from, `[B, T]`, and its mask."""
    ids = batch.get("input_ids") if model.question is None else None
    if ids is None:
        start = torch.full((rows, 1), model.ids.bos, device=device)
        return start, torch.ones_like(start)
    ids = ids.clone()
    ids[:, 0] = model.ids.bos
    ids = ids[:, :-1]
    mask = batch.get("attention_mask")
    if mask is not None:
        return ids, mask[:, :-1]
    guess = model.ids.pad != model.ids.sep and bool((ids == model.ids.pad).any())
    return ids, (ids != model.ids.pad).long() if guess else torch.ones_like(ids)


def _seen(prompt: Tensor, mask: Tensor) -> list[list[int]]:
    """The ids of each row that a repetition penalty counts: from the first real one on, padding behind it too."""
    return [row[place.cumsum(-1) > 0].tolist() for row, place in zip(prompt, mask, strict=True)]
