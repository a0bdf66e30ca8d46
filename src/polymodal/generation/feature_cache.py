"""What encoders and connectors made of media, kept by content: the same picture is encoded once.

    items of conversations -> those not seen before, a few at a time -> encoder, connector -> features by modality

Keys are SHA-256 over what the encoder sees.  Both stores here are bounded in bytes, and evict what
was not used for longest.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from polymodal.data.messages import Media
from polymodal.data.processor import MediaSpan, Prepared, Processor
from polymodal.generation.decode_state import cast_batch
from polymodal.models.multimodal_lm import MultimodalLM

FEATURE_BYTES = 256 * 2**20
PREPARED_BYTES = 256 * 2**20
ENCODER_BATCH = 16  # items that go through an encoder at once

Measure = Callable[[str], AbstractContextManager[None]]
"""The name of a phase ("decode", "encode") -> a block whose time counts as that phase."""


def unmeasured(phase: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


class FeatureCache:
    """Connected features [q, D] of media by their key; the longest unused go when `limit_bytes` are exceeded.

    For one model; conversations may share it, in several threads too.
    """

    def __init__(self, limit_bytes: int = FEATURE_BYTES) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[tuple[str, str], Tensor] = OrderedDict()  # by tenant and content
        self._lock = threading.Lock()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all (after a change of weights)."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0

    @torch.inference_mode()
    def features(
        self,
        model: MultimodalLM,
        processor: Processor,
        spans: Iterable[MediaSpan],
        measure: Measure = unmeasured,
        tenant: str = "",
    ) -> dict[str, list[Tensor]]:
        """Features of every item by modality, in order; only items that the tenant did not show before reach their
        encoder: where tenants have names, none can tell by the time what another has shown."""
        items = [span.item for span in spans]
        with self._lock:
            held = {item.key: self._entries.get((tenant, item.key)) for item in items}
        known = {key: value for key, value in held.items() if value is not None}
        for name in processor.modalities:
            new = {item.key: item.values for item in items if item.modality == name and item.key not in known}
            keys = list(new)
            for first in range(0, len(keys), ENCODER_BATCH):
                batch_keys = keys[first : first + ENCODER_BATCH]
                with measure("encode"):
                    made = _encoded(model, processor, name, [new[key] for key in batch_keys])
                known |= zip(batch_keys, made, strict=True)
        self._keep({(tenant, key): value for key, value in known.items()})
        by_modality: dict[str, list[Tensor]] = {}
        for item in items:
            by_modality.setdefault(item.modality, []).append(known[item.key])
        return by_modality

    def _keep(self, used: Mapping[tuple[str, str], Tensor]) -> None:
        with self._lock:
            for key, value in used.items():
                if key not in self._entries:
                    self._entries[key] = value
                    self.nbytes += value.nbytes
                self._entries.move_to_end(key)
            while self.nbytes > self._limit and self._entries:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes


def _encoded(model: MultimodalLM, processor: Processor, modality: str, values: list[Any]) -> list[Tensor]:
    """Features of each item; a row of a batch alone would keep the memory of the whole batch alive."""
    batch = cast_batch(processor.modalities[modality].batch(values), model.backbone.embed_tokens.weight)
    return [value.clone() for value in model.encode(modality, batch)]


class PreparedMedia(MutableMapping[int, tuple[Media, Prepared]]):
    """A processor's `memo` for media records that come again, as in the turns of a conversation.

    Holds no record: what was prepared goes with its record, and earlier when `limit_bytes` of values are exceeded.
    """

    def __init__(self, limit_bytes: int = PREPARED_BYTES) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[int, tuple[weakref.ref[Media], Prepared, int]] = OrderedDict()
        self._lock = threading.RLock()  # a record may go, and call back, in the middle of anything
        self.nbytes = 0

    def __getitem__(self, key: int) -> tuple[Media, Prepared]:
        with self._lock:
            media = self._entries[key][0]()
            if media is None:
                raise KeyError(key)
            self._entries.move_to_end(key)
            return media, self._entries[key][1]

    def __setitem__(self, key: int, value: tuple[Media, Prepared]) -> None:
        media, prepared = value
        with self._lock:
            self._drop(key)
            size = _bytes_of(prepared.values)
            self._entries[key] = weakref.ref(media, lambda gone: self._gone(key, gone)), prepared, size
            self.nbytes += size
            while self.nbytes > self._limit and self._entries:
                self._drop(next(iter(self._entries)))

    def __delitem__(self, key: int) -> None:
        with self._lock:
            if key not in self._entries:
                raise KeyError(key)
            self._drop(key)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._entries))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _gone(self, key: int, record: "weakref.ref[Media]") -> None:
        with self._lock:
            if key in self._entries and self._entries[key][0] is record:
                self._drop(key)

    def _drop(self, key: int) -> None:
        if key in self._entries:
            self.nbytes -= self._entries.pop(key)[2]


def _bytes_of(values: Any) -> int:
    if isinstance(values, Tensor):
        return values.nbytes
    return sum(map(_bytes_of, values.values())) if isinstance(values, Mapping) else 0
