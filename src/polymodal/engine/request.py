"""What is asked of an engine, what it hands back step by step, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, fields

from polymodal.data.processor import Encoded
from polymodal.errors import ConfigError, PolymodalError
from polymodal.generation.feature_cache import Measure, unmeasured
from polymodal.generation.output import GREEDY, Allowed, Piece
from polymodal.generation.sampling import SamplingOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One conversation to answer.

    encoded: from `Engine.encode`.  n: answers: samples, of which the k-th has the options' seed + k, or the best of its
    beams.  allowed: what may come next (structured output), one rule for each answer, since rules have a state of their
    own.  seconds: from `add` on; then what is written so far is the answer, with the finish_reason "timeout" (of a beam
    search there is nothing).  tenant: what was computed serves requests of the same tenant alone.  measure: gets the
    time in which media of this request are encoded.
    """

    encoded: Encoded
    options: SamplingOptions = GREEDY
    n: int = 1
    allowed: tuple[Allowed, ...] = ()
    seconds: float | None = None
    tenant: str = ""
    measure: Measure = unmeasured

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"Request.n: expected 1 or more, found {self.n}")
        if self.options.beams > 1 and self.allowed:
            raise ConfigError("beam search takes no rule for allowed ids")
        if self.n > self.options.beams > 1:
            raise ConfigError(f"{self.options.beams} beams find at most that many answers, {self.n} are asked for")
        if self.allowed and len(self.allowed) != self.n:
            raise ConfigError(f"Request.allowed: {len(self.allowed)} rules for {self.n} answers")


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """What one step did for one answer of a request.

    piece: the next token with its text; None where the answer ended without one.  A beam search knows its answers only
    at the end: then their tokens come all at once, the text with the last.  finish_reason: of the answer, when it
    ended: "stop", "length", "repetition", "abort", "timeout", "error".  error: why, with the last.  done: all answers
    of the request have ended.  cached_tokens: of the prompt, taken from what was computed before.
    """

    request: int
    answer: int = 0
    piece: Piece | None = None
    finish_reason: str | None = None
    error: Exception | None = None
    done: bool = False
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """rows          answers that are written at once
    queue         requests that wait; one more is refused
    chunk         tokens of prompts in a step in which nothing is written
    mixed_chunk   tokens of prompts in a step in which other answers are written: less makes these wait less
    cache_bytes   keys and values of running rows together, as far as can be foreseen; a single request always runs
    prefix_bytes  keys and values kept for later requests that begin alike
    prefixes      conversations of which they are kept
    """

    rows: int = 16
    queue: int = 1024
    chunk: int = 512
    mixed_chunk: int = 128
    cache_bytes: int = 4 * 2**30
    prefix_bytes: int = 2 * 2**30
    prefixes: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name.startswith("prefix") else 1
            if getattr(self, field.name) < least:
                raise ConfigError(
                    f"EngineLimits.{field.name}: expected {least} or more, found {getattr(self, field.name)}"
                )


class QueueFull(PolymodalError):
    """As many requests wait as the engine's limits allow; try again later."""
