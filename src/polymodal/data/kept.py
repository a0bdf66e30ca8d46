"""Decoded media that records keep, so that what was decoded once is not decoded again: at most `KEPT` bytes of it.

A record asks for its picture, samples or frames by a key; what was used longest ago is dropped, and decoded again when
it is asked for.  So a thousand records of large pictures cost no more memory than a few, whoever holds them.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

KEPT = 256 * 1024 * 1024  # bytes of all records together; the newest is kept whatever its size


Value = TypeVar("Value")


class DecodedCache:
    """Values by (record, key); the values of a record go with it.  For several threads."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._lock = threading.RLock()  # a record may die, and be forgotten, while this thread holds it
        self._values: OrderedDict[tuple[int, Hashable], tuple[Any, int]] = OrderedDict()
        self._records: dict[int, weakref.ref[Any]] = {}
        self.nbytes = 0

    def get(self, record: Any, key: Hashable) -> Any:
        """The value kept under this key, or None."""
        with self._lock:
            found = self._values.get((id(record), key))
            if found is None:
                return None
            self._values.move_to_end((id(record), key))
            return found[0]

    def put(self, record: Any, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value, and drop those used longest ago until the rest is within bounds."""
        number = id(record)
        with self._lock:
            if number not in self._records:
                self._records[number] = weakref.ref(record, lambda _: self._forget(number))
            self._drop((number, key))
            self._values[number, key] = value, nbytes
            self.nbytes += nbytes
            while self.nbytes > self._most and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def once(self, record: Any, key: Hashable, decode: Callable[[], Value], nbytes: Callable[[Value], int]) -> Value:
        """The value kept under this key, or what `decode` gives."""
        kept: Value | None = self.get(record, key)
        if kept is not None:
            return kept
        value = decode()
        self.put(record, key, value, nbytes(value))
        return value

    def _drop(self, place: tuple[int, Hashable]) -> None:
        found = self._values.pop(place, None)
        if found is not None:
            self.nbytes -= found[1]

    def _forget(self, number: int) -> None:
        with self._lock:
            self._records.pop(number, None)
            for place in [each for each in self._values if each[0] == number]:
                self._drop(place)


DECODED = DecodedCache()
