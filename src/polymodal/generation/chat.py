"""A conversation that is not computed twice: keys and values, and the features of media, live on between turns.

    messages -> processor -> ids and items
        -> longest common prefix with what the cache holds
        -> what follows it: its media (those not seen before encoded), embedded and through the backbone -> answer

Two prefixes are equal when their token ids are equal and the media that begin in them are the same (SHA-256 over what
the encoder sees).  Where they differ, the cache is truncated there; the answer is the same either way.
Traps: an answer is tokenised anew when it becomes history; if that gives other ids than were generated, the common
prefix ends there and nothing else happens.  One conversation at a time: a Chat is not for two threads.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from polymodal.data.media import Text
from polymodal.data.messages import Media, Message, conversation, user
from polymodal.data.processor import Encoded, Prepared, Processor
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.decode_state import copy_cache, max_new_tokens, prefill_batch
from polymodal.generation.feature_cache import FeatureCache, Measure, PreparedMedia, unmeasured
from polymodal.generation.generate import answer
from polymodal.generation.output import GREEDY, DecodingConstraints, Generation, Piece, collect
from polymodal.generation.prefill import collate_left, prefill_after
from polymodal.generation.prefix import Items, common_prefix, items_of, outside_items
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.cache import KVCache

CAPACITY_STEP = 256  # caches grow by whole steps, so that a short turn seldom needs a new one


class Chat:
    """One conversation with a model.

    `say` and `stream` keep the history in `messages`; `answer` takes the whole conversation each time, as a server
    does, and finds out by itself what it has computed already.  `reused`: prompt tokens that the last turn took
    from the cache.  features, prepared: shared with other conversations with this model, or its own.
    Raises: ConfigError when the processor feeds modalities the model does not splice.
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
        prepared: PreparedMedia | None = None,
    ) -> None:
        # Where a mask of the batch marks the placeholders, the processor's own ids may be any.
        by_id = {(name, index) for name, index in model.placeholders.items() if not model.inputs[name].placeholder_mask}
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
        self._prepared = PreparedMedia() if prepared is None else prepared
        self._cache: KVCache | None = None
        self._ids: list[int] = []  # the tokens whose keys and values the cache holds
        self._items: Items = frozenset()

    def say(self, *content: Any, **changes: Any) -> Generation:
        """Say texts and media in order, and get the whole answer; `changes` replace sampling options this once."""
        pieces = list(self.stream(*content, **changes))
        return collect(pieces, self._prompt_length, self.constraints)

    def stream(self, *content: Any, **changes: Any) -> Iterator[Piece]:
        """Like `say`, piece by piece.  History grows only when the answer is complete."""
        messages = [*self.messages, user(*content)]
        text = ""
        for piece in self.answer(messages, **changes):
            text += piece.text
            yield piece
        self.messages = [*messages, Message(role="assistant", parts=(Text(text),))]

    def answer(self, messages: Any, **changes: Any) -> Iterator[Piece]:
        """Pieces of the answer to a whole conversation, written as OpenAI-style or typed messages."""
        encoded = encode(self.processor, conversation(messages), self._prepared)
        check_ids(self.model, self.processor, encoded.input_ids)
        yield from self.write(encoded, replace(self.options, **changes))

    @torch.inference_mode()
    def write(self, encoded: Encoded, options: SamplingOptions, measure: Measure = unmeasured) -> Iterator[Piece]:
        """Pieces of the answer to a conversation that `encode` has made a row of.  Raises ConfigError for beams."""
        if options.beams > 1:
            raise ConfigError("chat: beam search is for `generate`; a conversation is written token by token")
        self._prompt_length = len(encoded)
        if self.model.is_encoder_decoder:
            features = self._features.features(self.model, self.processor, encoded.media_spans, measure)
            batch = collate_left(self.processor, [encoded])
            state = prefill_batch(self.model, batch, [options.max_tokens], features=features)
            yield from answer(state, [options], self.constraints)
            return
        cache = self._cache_for(encoded, options)
        written: list[int] = []
        try:
            prefill = prefill_after(self.model, self.processor, encoded, cache, self._features, measure)
            while prefill.advance():
                pass
            for piece in answer(prefill.state, [options], self.constraints):
                written.append(piece.id)
                yield piece
        finally:
            self._ids = [*encoded.input_ids, *written][: cache.length]
            self._items = items_of(encoded)

    def reset(self) -> None:
        """Forget what was computed (after a change of weights); history and media stay."""
        self._cache, self._ids, self._items = None, [], frozenset()
        self._features.clear()

    def shared_prefix(self, encoded: Encoded) -> int:
        """Leading tokens of a conversation whose keys and values this one holds."""
        return common_prefix(encoded, self._ids, self._items)

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are cached."""
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are held, unused capacity included."""
        return 0 if self._cache is None else self._cache.nbytes

    def _cache_for(self, encoded: Encoded, options: SamplingOptions) -> KVCache:
        """A cache that holds exactly the reusable prefix with capacity for the rest and the answer."""
        needed = len(encoded) + max_new_tokens(self.model, [len(encoded)], [options.max_tokens])[0]
        # The last prompt token always runs: its hidden state gives the first token of the answer.
        self.reused = outside_items(min(self.shared_prefix(encoded), len(encoded) - 1), encoded.media_spans)
        if self._cache is not None:
            self._cache.truncate(self.reused)
        if self._cache is None or self._cache.capacity < needed:
            capacity = -(-needed // CAPACITY_STEP) * CAPACITY_STEP
            larger = self.model.backbone.new_cache(1, capacity)
            self._cache = larger if self._cache is None else copy_cache(self._cache, larger)
        if items_of(encoded) != self._items:
            self._cache.forget_sources()
        return self._cache


@torch.inference_mode()
def encode(
    processor: Processor,
    messages: Sequence[Message],
    prepared: MutableMapping[int, tuple[Media, Prepared]] | None = None,
    measure: Measure = unmeasured,
) -> Encoded:
    """A conversation as the row that asks for its answer: `Processor.encode` in its two steps, each measured.

    Recordings that enter as their words are heard first ("encode"), the rest is "decode".  Raises PromptError for one
    that is too long.
    """
    if processor.rewrite is not None:
        with measure("encode"):
            messages = processor.rewrite(tuple(messages))
    with measure("decode"):
        segments = processor.template.render(messages, ask=True)
        return processor.fit(processor.encode_segments(segments, memo=prepared))


def check_ids(model: MultimodalLM, processor: Processor, ids: Sequence[int]) -> None:
    """Raises PromptError for an id that the model's table of embeddings has no row for.

    A tokenizer file may hold more tokens than the model was trained with; an id of a placeholder is never looked up.
    """
    size = model.backbone.config.vocab_size
    known = {*processor.placeholders.values(), *model.placeholders.values()}
    beyond = next((id for id in ids if id >= size and id not in known), None) if ids and max(ids) >= size else None
    if beyond is not None:
        token = processor.tokenizer.decode([beyond], skip_special=False)
        raise PromptError(
            f"the token {token!r} has the id {beyond}, but the model knows {size} tokens; leave it out of the text"
        )
