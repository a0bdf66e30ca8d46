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
from polymodal.generation.beam_search import beams_of, best_generations, search
from polymodal.generation.decode_state import copy_cache
from polymodal.generation.generate import decode
from polymodal.generation.output import (
    GREEDY,
    DecodingConstraints,
    Generation,
    Piece,
    Writer,
    collect,
    per_row,
    repeat_options,
)
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.vision_encoder_decoder import VisionEncoderDecoder, check_inputs
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec

Source = tuple[Tensor, MaskSpec | None]  # what is read, and which of it


@torch.inference_mode()
def continue_prompt(
    model: VisionEncoderDecoder,
    batch: Mapping[str, Any],
    options: SamplingOptions | Sequence[SamplingOptions] = GREEDY,
    constraints: DecodingConstraints | None = None,
    sequences: int = 1,
) -> tuple[Tensor, list[Generation]]:
    """What the decoder starts from, ids [B, P], and the texts that it writes after it, ids that end them included.

    `constraints` None: texts end at [SEP].  sequences: texts for each row, see `generate`.
    Raises PromptError when nothing more fits the decoder's positions.
    """
    batch = check_inputs(batch)
    source = model.encode_image(batch)
    rows = len(source)
    if model.question is not None:
        source = model.encode_question(source, batch)
    prompt, mask = _prompt(model, batch, rows, source.device)
    choices = per_row(options, rows)
    words = batch.get("attention_mask") if model.question is not None and model.rules.mask_padding else None
    if sequences > 1 and choices[0].beams == 1:
        choices = repeat_options(choices, sequences)
        source, mask = source.repeat_interleave(sequences, 0), mask.repeat_interleave(sequences, 0)
        words = None if words is None else words.repeat_interleave(sequences, 0)
    max_new = model.decoder.config.positions - prompt.shape[1]
    if max_new < 1:
        raise PromptError(f"VisionEncoderDecoder: a prompt of {prompt.shape[1]} tokens fills all positions")
    end = constraints or DecodingConstraints(eos=frozenset({model.ids.sep}))
    writers = [
        Writer(row=i, options=choice, limit=min(choice.max_tokens, max_new), constraints=end)
        for i, choice in enumerate(choices)
    ]
    seen = None if words is None else MaskSpec(causal=False, attention_mask=words)
    if any(choice.beams > 1 for choice in choices):
        return prompt, _search(model, prompt, mask, (source, seen), writers, sequences)
    pieces = _write(model, prompt.repeat_interleave(sequences, 0), mask, (source, seen), writers)
    lengths = mask.sum(-1).tolist()
    return prompt, [collect(parts, length, end) for parts, length in zip(pieces, lengths, strict=True)]


def prompt_width(model: VisionEncoderDecoder, batch: Mapping[str, Any]) -> int:
    """Ids that the decoder starts from; the last one of a written prompt, [SEP], is not among them."""
    ids = batch.get("input_ids") if model.question is None else None
    return 1 if ids is None else ids.shape[1] - 1


class _TextState:
    """Decode state: the source, the cache, and the positions of the next tokens.  max_new: capacity for new tokens."""

    def __init__(self, model: VisionEncoderDecoder, mask: Tensor, source: Source, cache: KVCache, max_new: int) -> None:
        self.model, self.source, self.cache = model, source, cache
        self.position = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
        # Read once: where nothing is padded no later step needs a mask.
        padded = not bool(mask.all())
        self.mask = torch.nn.functional.pad(mask, (0, max_new), value=1) if padded else None

    def forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """Logits float32 `[B, V]` at the last of `ids [B, T]`, at `position_ids`."""
        x = self.model.decoder.embed(ids, position_ids=position_ids)
        states, seen = self.source
        spec = MaskSpec(attention_mask=None if self.mask is None else self.mask[:, : self.cache.length + ids.shape[1]])
        hidden = self.model.decoder.run(x, spec, source=states, source_mask=seen, cache=self.cache)
        self.position = position_ids[:, -1:] + 1
        return self.model.compute_logits(hidden[:, -1]).float()

    def step(self, ids: Tensor) -> Tensor:
        """One new token for every row, int64 `[B]`."""
        return self.forward(ids[:, None], self.position)


def _begin(
    model: VisionEncoderDecoder, prompt: Tensor, mask: Tensor, source: Source, max_new: int
) -> tuple[_TextState, Tensor]:
    """The prompt read, with `max_new` more positions, and the logits behind it."""
    text = _TextState(model, mask, source, model.decoder.new_cache(len(prompt), prompt.shape[1] + max_new), max_new)
    return text, text.forward(prompt, text.position)


def _write(
    model: VisionEncoderDecoder, prompt: Tensor, mask: Tensor, source: Source, writers: list[Writer]
) -> list[list[Piece]]:
    """Prefill, then token by token; pieces of each row."""
    text, logits = _begin(model, prompt, mask, source, max(writer.limit for writer in writers))
    pieces: list[list[Piece]] = [[] for _ in writers]
    for piece in decode(logits, text.step, writers, _seen(prompt, mask)):
        pieces[piece.row].append(piece)
    return pieces


def _search(
    model: VisionEncoderDecoder, prompt: Tensor, mask: Tensor, source: Source, writers: list[Writer], sequences: int
) -> list[Generation]:
    """Prefill, then beam search; the `sequences` best texts of each row."""
    beams, longest = writers[0].options.beams, max(writer.limit for writer in writers)
    if any(writer.options.beams != beams for writer in writers):
        raise ConfigError("VisionEncoderDecoder: all rows need the same number of beams")
    alone, logits = _begin(model, prompt, mask, source, 0)
    cache = copy_cache(alone.cache, model.decoder.new_cache(len(prompt) * beams, prompt.shape[1] + longest), beams)
    states, seen = source
    words = None if seen is None or seen.attention_mask is None else seen.attention_mask
    if words is not None:
        seen = MaskSpec(causal=False, attention_mask=words.repeat_interleave(beams, 0))
    wide = states.repeat_interleave(beams, 0), seen
    text = _TextState(model, mask.repeat_interleave(beams, 0), wide, cache, longest)
    text.position = alone.position.repeat_interleave(beams, 0)

    def step(parents: Tensor, ids: Tensor) -> Tensor:
        cache.reorder(parents)  # within a row, whose beams have one position
        return text.step(ids)

    rows = [beams_of(writer.options, writer.limit, writer.constraints) for writer in writers]
    prompts = _seen(prompt, mask)
    search(rows, prompts, logits.repeat_interleave(beams, 0), step)
    best = [
        best_generations(row, ids, writer.constraints, sequences)
        for row, ids, writer in zip(rows, prompts, writers, strict=True)
    ]
    return [text for texts in best for text in texts]


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
    return [row[real.cumsum(-1) > 0].tolist() for row, real in zip(prompt, mask, strict=True)]
