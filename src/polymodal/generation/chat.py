"""A conversation that is not computed twice: keys and values, and the features of media, live on between turns.

    messages -> processor.encode -> ids and items
        -> features: those seen before from FeatureCache, the others encoded
        -> longest common prefix with what the cache holds -> only the rest goes through the backbone -> answer

Two prefixes are equal when their token ids are equal and the media that begin in them are the same (SHA-256 over what
the encoder sees).  Where they differ, the cache is cut back to that place; the answer is the same either way.
Traps: an answer is tokenised anew when it becomes history; if that gives other ids than were generated, the common
prefix ends there and nothing else happens.  One conversation at a time: a Chat is not for two threads.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media import Text
from polymodal.data.messages import Message, conversation, user
from polymodal.data.processor import Encoded, Memo, Placed, Processor
from polymodal.errors import ConfigError
from polymodal.generation.decode_state import DecodeState, copied, on_device, room, start
from polymodal.generation.generate import answer
from polymodal.generation.output import GREEDY, DecodingConstraints, Generation, Piece, collected
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.cache import KVCache

CAPACITY_STEP = 256  # caches grow by whole steps, so that a short turn seldom needs a new one


class FeatureCache:
    """Connected features [q, D] of media by their key; the longest unused go when `limit_bytes` are exceeded."""

    def __init__(self, limit_bytes: int = 256 * 2**20) -> None:
        self._limit = limit_bytes
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    @torch.inference_mode()
    def features(self, model: MultimodalLM, processor: Processor, placed: Iterable[Placed]) -> dict[str, list[Tensor]]:
        """Features of every item by modality, in order; only items never seen before reach their encoder."""
        items = [place.item for place in placed]
        known = {item.key: self._held[item.key] for item in items if item.key in self._held}
        for name, modality in processor.modalities.items():
            new = {item.key: item.values for item in items if item.modality == name and item.key not in known}
            if new:
                values = on_device(modality.batch(list(new.values())), model.backbone.embed_tokens.weight.device)
                known |= dict(zip(new, model.encode(name, values), strict=True))
        self._keep(known)
        found: dict[str, list[Tensor]] = {}
        for item in items:
            found.setdefault(item.modality, []).append(known[item.key])
        return found

    def _keep(self, used: Mapping[str, Tensor]) -> None:
        for key, value in used.items():
            if key not in self._held:
                # A row of a batch would keep the memory of the whole batch alive.
                self._held[key] = value.clone()
                self._bytes += value.nbytes
            self._held.move_to_end(key)
        while self._bytes > self._limit and self._held:
            self._bytes -= self._held.popitem(last=False)[1].nbytes


class Chat:
    """One conversation with a model.

    `say` and `stream` keep the history in `messages`; `answer` takes the whole conversation each time, as a server
    does, and finds out by itself what it has computed already.  `reused`: prompt tokens that the last turn took
    from the cache.  Raises: ConfigError when the processor feeds modalities the model does not splice.
    """

    def __init__(
        self,
        model: MultimodalLM,
        processor: Processor,
        *,
        options: SamplingOptions = GREEDY,
        system: str | None = None,
        constraints: DecodingConstraints | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        # Where a mask of the batch marks the places, the processor's own ids may be any.
        by_id = {(name, index) for name, index in model.placeholders.items() if not model.inputs[name].places}
        if wrong := by_id - set(processor.placeholders.items()):
            raise ConfigError(f"chat: the processor does not use the model's placeholders {sorted(wrong)}")
        self.model = model
        self.processor = processor
        self.options = options
        self.constraints = DecodingConstraints(tokenizer=processor.tokenizer) if constraints is None else constraints
        self.messages: list[Message] = [] if system is None else [Message(role="system", parts=(Text(system),))]
        self.reused = 0
        self._prompt_length = 0
        self._features = FeatureCache() if features is None else features
        self._memo: Memo = {}
        self._cache: KVCache | None = None
        self._ids: list[int] = []  # the tokens whose keys and values the cache holds
        self._placed: tuple[Placed, ...] = ()

    def say(self, *content: Any, **changes: Any) -> Generation:
        """Say texts and media in order, and get the whole answer; `changes` replace sampling options this once."""
        pieces = list(self.stream(*content, **changes))
        return collected(pieces, self._prompt_length, self.constraints)

    def stream(self, *content: Any, **changes: Any) -> Iterator[Piece]:
        """Like `say`, piece by piece.  History grows only when the answer is complete."""
        messages = [*self.messages, user(*content)]
        text = ""
        for piece in self.answer(messages, **changes):
            text += piece.text
            yield piece
        self.messages = [*messages, Message(role="assistant", parts=(Text(text),))]

    @torch.inference_mode()
    def answer(self, messages: Any, **changes: Any) -> Iterator[Piece]:
        """Pieces of the answer to a whole conversation, written as OpenAI-style or typed messages."""
        options = replace(self.options, **changes)
        if options.beams > 1:
            raise ConfigError("chat: beam search is for `generate`; a conversation is written token by token")
        messages = conversation(messages)
        encoded = self.processor.fit(self.processor.encode(messages, generate=True, memo=self._memo))
        present = {id(media) for message in messages for media in message.media}
        self._memo = {key: kept for key, kept in self._memo.items() if key in present}
        self._prompt_length = len(encoded)
        if self.model.is_encoder_decoder:
            batch = self.processor.collate([encoded], padding="left")
            yield from answer(start(self.model, batch, [options.max_tokens]), [options], self.constraints)
            return
        features = self._features.features(self.model, self.processor, encoded.placed)
        written: list[int] = []
        cache = self._cache_for(encoded, options)
        try:
            running = self._running(encoded, features, cache)
            for piece in answer(running, [options], self.constraints):
                written.append(piece.id)
                yield piece
        finally:
            self._ids = [*encoded.input_ids, *written][: cache.length]
            self._placed = encoded.placed

    def reset(self) -> None:
        """Forget what was computed (after a change of weights); history and media stay."""
        self._cache, self._ids, self._placed = None, [], ()
        self._features = FeatureCache()

    def _cache_for(self, encoded: Encoded, options: SamplingOptions) -> KVCache:
        """A cache that holds exactly the reusable prefix and has room for the rest and the answer."""
        # The last prompt token always runs: its hidden state gives the first token of the answer.
        self.reused = min(common_prefix(encoded, self._ids, self._placed), len(encoded) - 1)
        needed = len(encoded) + room(self.model, [len(encoded)], [options.max_tokens])[0]
        if self._cache is not None:
            self._cache.truncate(self.reused)
        if self._cache is None or self._cache.capacity < needed:
            capacity = -(-needed // CAPACITY_STEP) * CAPACITY_STEP
            grown = self.model.backbone.new_cache(1, capacity)
            self._cache = grown if self._cache is None else copied(self._cache, grown)
        self._cache.forget_sources()
        return self._cache

    def _running(self, encoded: Encoded, features: Mapping[str, Sequence[Tensor]], cache: KVCache) -> DecodeState:
        device = self.model.backbone.embed_tokens.weight.device
        batch = self.model.prepare_batch(on_device(self.processor.collate([encoded], padding="left"), device))
        context = self.model.context_for(features, batch)
        rest = slice(cache.length, None)
        running = DecodeState(
            model=self.model,
            cache=cache,
            prompts=[encoded.input_ids],
            position=batch["position_ids"][..., -1],
            context=context,
            logits=torch.empty(0),
        )
        embeds = self.model.embed_inputs(batch, features)
        running.prefill(embeds[:, rest], batch["position_ids"][..., rest], batch["token_types"][:, rest])
        return running


def common_prefix(encoded: Encoded, ids: Sequence[int], placed: Sequence[Placed]) -> int:
    """Number of leading tokens that are equal, in ids and in the media that stand there."""
    length = 0
    for ours, theirs in zip(encoded.input_ids, ids, strict=False):
        if ours != theirs:
            break
        length += 1
    known = {place.first: place.item.key for place in placed}
    for place in encoded.placed:
        if place.first < length and known.get(place.first) != place.item.key:
            return place.first
    return length
