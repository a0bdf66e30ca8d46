"""What is said in a stream of sound, cut out of it: from the first loud piece to half a second of quiet.

samples of any lengths -> pieces of 256 ms -> how likely each is speech -> begins at `start`, ends behind `quiet`
    seconds below `start - 0.15` -> utterances float32 [n], with the piece in front of their first

The rules are those of Silero's VADIterator with the numbers of VITA's demonstration (arXiv 2408.05211).  Which
probability is used is the caller's choice: `loudness` needs no weights, and takes any loud sound for speech.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from polymodal.errors import ConfigError

RATE = 16_000
PIECE = 4096  # samples
QUIETEST, LOUDEST = -60.0, -30.0  # dB below full scale at which `loudness` is 0 and 1


def loudness(piece: np.ndarray) -> float:
    """How loud samples in -1..1 are, 0 to 1."""
    power = float(np.mean(np.square(piece, dtype=np.float64)))
    return min(1.0, max(0.0, (10 * np.log10(power + 1e-12) - QUIETEST) / (LOUDEST - QUIETEST)))


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """samples float32 [n] at 16 kHz; start, end: seconds of the stream."""

    samples: np.ndarray
    start: float
    end: float


@dataclass(kw_only=True)
class Utterances:
    """speech(piece) -> probability 0 to 1.  start: from which on an utterance begins.  quiet: seconds that end it.
    shortest: seconds below which it is dropped.  longest: seconds at which it is ended all the same."""

    speech: Callable[[np.ndarray], float] = loudness
    start: float = 0.7
    quiet: float = 0.5
    shortest: float = 1.5
    longest: float = 60.0
    _rest: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), init=False)
    _heard: int = field(default=0, init=False)  # samples that were judged
    _pieces: list[np.ndarray] = field(default_factory=list, init=False)  # of the utterance, or the last one before it
    _inside: bool = field(default=False, init=False)
    _quiet_since: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0.15 < self.start <= 1 or self.quiet < 0 or not 0 <= self.shortest <= self.longest:
            raise ConfigError(f"utterances: expected 0.15 < start <= 1 and 0 <= shortest <= longest, found {self}")

    @property
    def pieces(self) -> int:
        """How many whole pieces of the stream were judged."""
        return self._heard // PIECE

    @property
    def seconds(self) -> float:
        """How much of the stream was judged."""
        return self._heard / RATE

    def add(self, samples: np.ndarray) -> Iterator[Utterance]:
        """Further samples at 16 kHz; what ended in them."""
        self._rest = np.concatenate((self._rest, np.asarray(samples, np.float32)))
        while len(self._rest) >= PIECE:
            piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
            yield from self._judge(piece)

    def finish(self) -> Iterator[Utterance]:
        """The stream has ended: what was going on, if it was long enough."""
        if self._inside:
            self._pieces.append(self._rest)
            self._heard += len(self._rest)
            yield from self._cut()
        self._rest = self._rest[:0]

    def _judge(self, piece: np.ndarray) -> Iterator[Utterance]:
        self._heard += len(piece)
        share = self.speech(piece)
        if not self._inside:
            self._inside = share >= self.start
            self._pieces = [*self._pieces[-1:], piece] if self._inside else [piece]
            return
        self._pieces.append(piece)
        if share >= self.start:
            self._quiet_since = None
        elif share < self.start - 0.15 and self._quiet_since is None:
            self._quiet_since = self._heard
        ended = self._quiet_since is not None and self._heard - self._quiet_since >= self.quiet * RATE
        if ended or sum(map(len, self._pieces)) >= self.longest * RATE:
            yield from self._cut()

    def _cut(self) -> Iterator[Utterance]:
        samples = np.concatenate(self._pieces)
        self._pieces, self._inside, self._quiet_since = self._pieces[-1:], False, None
        if len(samples) >= self.shortest * RATE:
            yield Utterance(samples=samples, start=(self._heard - len(samples)) / RATE, end=self._heard / RATE)
