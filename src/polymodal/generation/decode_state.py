"""The state of decoding: what a prefilled batch keeps between one token and the next.

    batch -> prepare -> inputs_embeds -> backbone in chunks, filling the cache -> logits of the last position
    new ids -> embed -> backbone with the cache -> logits                        (step)

Traps: rows of unequal length are padded on the LEFT, so that the last column is real in every row; the padding
stays in the cache and is masked for ever.  Without padding there is no mask at all, which is the fast path.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.backbones.decoder import DecoderConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.protocols import CountsNextPositions, HasPositionTable
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec, position_ids_from_mask

CHUNK = 512  # tokens of a prompt that go through the backbone at once


@dataclass(kw_only=True, eq=False)
class DecodeState:
    """A batch between two tokens.

    mask: bool [B, capacity], True also where nothing is written yet; None without padding.  position: int64 [B] or
    [axes, B], the next one.  logits: float32 [B, V] for the next token.  prompts: the real ids of each row.  history:
    the same with the padding between them, where published penalties count that too.
    """

    model: MultimodalLM
    cache: KVCache
    prompts: list[list[int]]
    position: Tensor
    mask: Tensor | None = None
    context: Any = None
    logits: Tensor
    history: list[list[int]] | None = None

    @property
    def seen(self) -> list[list[int]]:
        """The ids of each row that penalties and rules count."""
        return self.prompts if self.history is None else self.history

    @property
    def rows(self) -> int:
        return len(self.prompts)

    def feed(self, embeds: Tensor, position_ids: Tensor, token_types: Tensor | None = None) -> None:
        """Run new embeddings [B, T, D] after the cached ones; sets `logits`, not `position`."""
        mask = None if self.mask is None else self.mask[:, : self.cache.length + embeds.shape[1]]
        hidden = self.model.backbone(
            embeds,
            position_ids,
            MaskSpec(attention_mask=mask),
            token_types=token_types,
            context=self.context,
            cache=self.cache,
        )
        self.logits = self.model.compute_logits(hidden[:, -1]).float()

    def step(self, ids: Tensor) -> None:
        """One new token for every row; ids int64 [B] on the model's device."""
        tokens = ids[:, None]
        prepare, position_ids = self.model.prepare_inputs, self.position[..., None]
        if isinstance(prepare, CountsNextPositions):
            position_ids = prepare.next_positions(tokens, self.cache.length)
        self.feed(self.model.backbone.embed(tokens), position_ids)
        self.position = self.position + 1
        if has_learned_positions(self.model):
            # A row that has ended is still carried along; its positions must not leave a table of learned ones.
            self.position = self.position.clamp_max(self.model.backbone.config.max_length - 1)


@dataclass(kw_only=True, eq=False)
class Prefill:
    """A prompt on its way into the cache of `state`: embeddings [B, T, D], of which `done` tokens went through."""

    state: DecodeState
    embeds: Tensor
    position_ids: Tensor
    token_types: Tensor | None = None
    done: int = 0

    @property
    def remaining(self) -> int:
        """Tokens that are not in the cache yet."""
        return self.embeds.shape[1] - self.done

    @torch.inference_mode()
    def advance(self, tokens: int = CHUNK) -> int:
        """Run up to `tokens` more; returns how many are left.  With none left, `state` is ready to decode.

        Where the rope's frequencies depend on the length, all that is left is run at once: pieces would be rotated by
        those of shorter prompts.
        """
        if self.state.cache.length + self.remaining > rope_threshold(self.state.model):
            tokens = self.remaining
        piece = slice(self.done, self.done + tokens)
        types = None if self.token_types is None else self.token_types[:, piece]
        self.state.feed(self.embeds[:, piece], self.position_ids[..., piece], types)
        self.done = min(piece.stop, self.embeds.shape[1])
        if not self.remaining:
            # Every axis goes on from the last token, not from the largest position, as the library does from
            # version 5 on.
            self.state.position = self.position_ids[..., -1] + 1
        return self.remaining


def rope_threshold(model: MultimodalLM) -> float:
    """Tokens beyond which the frequencies of the rope depend on the length; infinite where they never do."""
    config = model.backbone.config
    scaling = config.rope.scaling if isinstance(config, DecoderConfig) and config.rope is not None else None
    return math.inf if scaling is None or scaling.threshold is None else scaling.threshold


def has_learned_positions(model: MultimodalLM) -> bool:
    """Whether a table of positions ends the context; what is computed (rope, ALiBi) goes on, less well."""
    config = model.backbone.config
    return isinstance(config, HasPositionTable) and config.positions is not None


def max_new_tokens(
    model: MultimodalLM, lengths: Sequence[int], max_tokens: Sequence[int], allow_past_context: bool = False
) -> list[int]:
    """New tokens that each row may get: what it asks for, as far as the model's context goes, or beyond it.

    Raises: PromptError when a prompt fills the context.
    """
    if allow_past_context and not has_learned_positions(model):
        return list(max_tokens)
    limit = model.backbone.config.max_length
    for row, length in enumerate(lengths):
        if length >= limit:
            raise PromptError(f"row {row}: {length} prompt tokens fill the model's context of {limit}; shorten it")
    return [min(most, limit - length) for length, most in zip(lengths, max_tokens, strict=True)]


def prefill_batch(
    model: MultimodalLM,
    batch: Mapping[str, Any],
    max_tokens: Sequence[int],
    chunk: int = CHUNK,
    allow_past_context: bool = False,
    features: Mapping[str, Any] | None = None,
) -> DecodeState:
    """Prefill a processor's batch, with capacity for `max_tokens[row]` new tokens in each row.

    allow_past_context: as published generation, see `max_new_tokens` and `DecodeState.history`.  features: by modality,
    where they are known already.

    Raises: ConfigError for a batch padded on the right, PromptError when it does not fit.
    """
    if batch.get("segments") is not None:
        raise PromptError("segments: an answer follows one sequence a row; generate from rows that are not packed")
    batch = model.prepare_batch(cast_batch(batch, model.backbone.embed_tokens.weight))
    input_ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    if not bool(mask[:, -1].all()):
        raise ConfigError("generate: rows must be padded on the left; call the processor with generate=True")
    prompts = [row[real].tolist() for row, real in zip(input_ids.cpu(), mask.cpu(), strict=True)]
    lengths = [len(prompt) for prompt in prompts]
    capacity = input_ids.shape[1] + max(max_new_tokens(model, lengths, max_tokens, allow_past_context))
    positions = batch.get("position_ids")
    if positions is None:
        positions = position_ids_from_mask(mask)
    features = model.features(**batch) if features is None else features
    state = DecodeState(
        model=model,
        cache=model.backbone.new_cache(input_ids.shape[0], capacity),
        prompts=prompts,
        position=positions[..., -1],
        mask=None if bool(mask.all()) else torch.nn.functional.pad(mask, (0, capacity - mask.shape[1]), value=True),
        context=model.context_for(features, batch),
        logits=torch.empty(0),
    )
    if allow_past_context and state.mask is not None:
        state.history = [row[real.cumsum(-1) > 0].tolist() for row, real in zip(input_ids, mask, strict=True)]
    prefill = Prefill(
        state=state,
        embeds=model.embed_inputs(batch, features),
        position_ids=positions,
        token_types=batch.get("token_types"),
    )
    while prefill.advance(prefill.remaining if model.is_encoder_decoder else chunk):
        pass
    return state


def repeat_rows(state: DecodeState, times: int, capacity: int) -> DecodeState:
    """Each row `times` times, one after another, with capacity for that many more tokens."""
    cache = state.model.backbone.new_cache(state.rows * times, state.cache.length + capacity)
    mask = state.mask
    if mask is not None:
        cached = mask[:, : state.cache.length].repeat_interleave(times, 0)
        mask = torch.nn.functional.pad(cached, (0, capacity), value=True)
    return DecodeState(
        model=state.model,
        cache=copy_cache(state.cache, cache, times),
        prompts=[prompt for prompt in state.prompts for _ in range(times)],
        position=state.position.repeat_interleave(times, -1),
        mask=mask,
        context=state.context,
        logits=state.logits.repeat_interleave(times, 0),
        history=None if state.history is None else [ids for ids in state.history for _ in range(times)],
    )


def copy_cache(cache: KVCache, into: KVCache, times: int = 1) -> KVCache:
    """Write what `cache` holds into the empty cache `into`, each row repeated `times` times; returns `into`."""
    held = slice(cache.length)
    for first in range(times):
        into.copy_from(cache, rows=slice(first, None, times), columns=held, of=(slice(None), held))
    into.set_sources(
        [
            None if source is None else (source[0].repeat_interleave(times, 0), source[1].repeat_interleave(times, 0))
            for source in cache.sources()
        ]
    )
    into.advance(cache.length)
    return into


def cast_batch(batch: Mapping[str, Any], weight: Tensor) -> dict[str, Any]:
    """The batch with its tensors on the device of `weight`, floating-point ones in its dtype.

    Host values (item_counts) and tensors on the meta device stay as they are.
    """
    moves = {name for name, value in batch.items() if isinstance(value, Tensor) and not value.is_meta}
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None) if name in moves else value
        for name, value in batch.items()
    }
