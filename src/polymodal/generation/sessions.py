"""Conversations with one model, in turn or at once: what a finished answer computed serves the next turn.

    messages -> encode -> the idle chat that holds most of this conversation, or a new one -> answer -> idle again

A client sends whole conversations and names none; the one that goes on is found by its tokens.  A chat is taken when at
least half of what it holds is of use, so that another question does not cost a long conversation its memory.
Limits: idle chats hold at most `IdleLimits`, the ones used longest ago go first; features and prepared media have
limits of their own (`feature_cache.py`).  An answer that is abandoned gives up its chat with its keys and values.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from polymodal.data.messages import Message
from polymodal.data.processor import Encoded, Processor
from polymodal.errors import ConfigError
from polymodal.generation.chat import Chat, check_ids, encode
from polymodal.generation.feature_cache import FeatureCache, Measure, PreparedMedia, unmeasured
from polymodal.generation.output import DecodingConstraints
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.watch import WeightsWatch


@dataclass(frozen=True, kw_only=True)
class IdleLimits:
    """What conversations that wait for their next turn may hold together: how many, and bytes of keys and values."""

    chats: int = 8
    nbytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        if self.chats < 0 or self.nbytes < 0:
            raise ConfigError(f"idle limits: expected 0 or more, found {self.chats} chats and {self.nbytes} bytes")


class Sessions:
    """All conversations with `model`.  Changed weights make everything computed before worthless, so it is dropped.

    ends: ids that end an answer beside the tokenizer's end token, such as those of a generation_config.json.
    """

    def __init__(
        self,
        model: MultimodalLM,
        processor: Processor,
        limits: IdleLimits | None = None,
        ends: Collection[int] = (),
    ) -> None:
        self.model = model
        self.processor = processor
        plain = DecodingConstraints(tokenizer=processor.tokenizer)
        self.constraints = replace(plain, eos=plain.ends.union(ends))
        self.limits = limits or IdleLimits()
        self.features = FeatureCache()
        self.prepared = PreparedMedia()
        self._idle: list[Chat] = []  # the one used last at the end
        self._watch = WeightsWatch(model)
        self._lock = threading.Lock()
        self._epoch = 0

    def encode(self, messages: Sequence[Message], measure: Measure = unmeasured) -> Encoded:
        """A conversation as a row; media records that came before are not prepared again."""
        self.check_weights()
        encoded = encode(self.processor, messages, self.prepared, measure)
        check_ids(self.model, self.processor, encoded.input_ids)
        return encoded

    @contextmanager
    def chat(self, encoded: Encoded) -> Iterator[Chat]:
        """A chat that nobody else uses now, for one answer to a conversation from `encode`."""
        with self._lock:
            chat, epoch = self._best(encoded), self._epoch
        chat = chat or Chat(
            self.model,
            self.processor,
            constraints=self.constraints,
            features=self.features,
            prepared=self.prepared,
        )
        yield chat
        # Only a chat whose answer came to its end is kept, and only what the present weights have computed.
        with self._lock:
            if epoch == self._epoch:
                self._idle.append(chat)
            self._trim()

    def check_weights(self) -> None:
        """Drop everything when the weights are not those of the last look."""
        with self._lock:
            changed = self._watch.changed()
        if changed:
            self.clear()

    def clear(self) -> None:
        """Drop what idle chats hold, and all features and prepared media."""
        with self._lock:
            self._idle.clear()
            self._epoch += 1
        self.features.clear()
        self.prepared.clear()

    @property
    def idle(self) -> int:
        """Chats that wait for their next turn."""
        return len(self._idle)

    @property
    def nbytes(self) -> int:
        """Bytes held for later turns: keys and values of idle chats, features, prepared media."""
        with self._lock:
            chats = sum(chat.nbytes for chat in self._idle)
        return chats + self.features.nbytes + self.prepared.nbytes

    def _best(self, encoded: Encoded) -> Chat | None:
        """Takes the idle chat that shares most with this conversation, if that is half of what it holds."""
        shared = [chat.shared_prefix(encoded) for chat in self._idle]
        if not shared or 2 * max(shared) < self._idle[best := shared.index(max(shared))].cached_tokens:
            return None
        return self._idle.pop(best)

    def _trim(self) -> None:
        """Forget the longest unused chats until the rest keep the limits."""
        while self._idle and (
            len(self._idle) > self.limits.chats or sum(chat.nbytes for chat in self._idle) > self.limits.nbytes
        ):
            del self._idle[0]
