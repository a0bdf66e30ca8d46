"""What generation returns, and the constraints on an answer.

    ids, one by one -> Writer -> Piece (id, text that became certain, log-probability) -> Generation (the whole answer)

Traps: `ids` hold what was generated, end token included, while `text` stops before the stop string; log-probabilities
are those of the model itself, before penalties and temperature.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.generation.sampling import SamplingOptions
from polymodal.generation.stopping import Loop, StopStrings

# What a row has written so far -> the ids that may come next (int64 [n]), or None for all of them.
Allowed = Callable[[Sequence[int]], Tensor | None]


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """Natural-log probability of a generated token, and of the likeliest alternatives."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One generated token of one row, and the text that became certain with it (often "", sometimes several).

    finish_reason: None while the row goes on; "stop" for an end token or stop string, "length" for the limit,
    "repetition" for a loop (`SamplingOptions.stop_loops`).
    """

    row: int
    id: int
    text: str
    logprob: TokenLogprob | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer. text is None without a tokenizer; counts: tokens of "prompt" and "generated"."""

    ids: tuple[int, ...]
    text: str | None
    finish_reason: str
    counts: Mapping[str, int]
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DecodingConstraints:
    """How answers become text and where they end.

    tokenizer: None = ids only.  eos: ids that end an answer; default the tokenizer's end token.  allowed: limits
    what may come next, one rule for all rows or one for each (structured output, grids of discrete image tokens).
    placeholders: the answer may hold placeholder ids, as published generation lets it; else they are never chosen.
    allow_past_context: the answer may go on beyond the model's context where no table of positions ends it, as
    published generation does.
    """

    tokenizer: Tokenizer | None = None
    eos: frozenset[int] | None = None
    allowed: Allowed | Sequence[Allowed] | None = None
    placeholders: bool = False
    allow_past_context: bool = False

    @property
    def ends(self) -> frozenset[int]:
        if self.eos is not None:
            return frozenset(self.eos)
        known = None if self.tokenizer is None else self.tokenizer.eos_id
        return frozenset() if known is None else frozenset({known})


GREEDY = SamplingOptions()
UNCONSTRAINED = DecodingConstraints()


def collect(pieces: Sequence[Piece], prompt: int, constraints: DecodingConstraints) -> Generation:
    """The answer that all pieces of one row make up; prompt is the number of its prompt tokens."""
    logprobs = tuple(piece.logprob for piece in pieces if piece.logprob is not None)
    return Generation(
        ids=tuple(piece.id for piece in pieces),
        text=None if constraints.tokenizer is None else "".join(piece.text for piece in pieces),
        finish_reason=pieces[-1].finish_reason or "length",
        counts={"prompt": int(prompt), "generated": len(pieces)},
        logprobs=logprobs or None,
    )


@dataclass(kw_only=True)
class Writer:
    """One row's answer so far: its ids, its text stream and its stop strings."""

    row: int
    options: SamplingOptions
    limit: int
    constraints: DecodingConstraints
    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def __post_init__(self) -> None:
        if self.options.stop and self.constraints.tokenizer is None:
            raise ConfigError("generate: stop strings need a tokenizer to find them in text")
        self._ends = self.constraints.ends
        self._text = None if self.constraints.tokenizer is None else self.constraints.tokenizer.stream()
        self._stop = StopStrings(self.options.stop)
        # Where a rule says what may come next (a grid of one colour, columns of a table), repeating is no mistake.
        loops = self.options.stop_loops and self.constraints.allowed is None
        self._loop = Loop(self.options.stop_loops) if loops else None

    def accept(self, index: int, logprob: TokenLogprob | None = None) -> Piece:
        """Take the next id; sets finish_reason when it is the last."""
        self.ids.append(index)
        ended = index in self._ends
        text = "" if ended or self._text is None else self._stop.push(self._text.push(index))
        if ended or self._stop.found is not None:
            self.finish_reason = "stop"
        elif self._loop is not None and self._loop.found(self.ids):
            self.finish_reason = "repetition"
        elif len(self.ids) >= self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None and self._stop.found is None and self._text is not None:
            text += self._stop.push(self._text.finish()) + self._stop.finish()
        return Piece(
            row=self.row,
            id=index,
            text=text,
            logprob=logprob,
            finish_reason=self.finish_reason,
        )


def repeat_options(options: Sequence[SamplingOptions], times: int) -> list[SamplingOptions]:
    """Each row's options `times` times; seeds count up, so that no two samples are the same."""
    return [
        option if option.seed is None else replace(option, seed=option.seed + k)
        for option in options
        for k in range(times)
    ]


def per_row(options: SamplingOptions | Sequence[SamplingOptions], rows: int) -> list[SamplingOptions]:
    """One SamplingOptions for each row.  Raises ConfigError when a list has another length."""
    if isinstance(options, SamplingOptions):
        return [options] * rows
    if len(options) != rows:
        raise ConfigError(f"generate: {len(options)} sampling options for {rows} rows; give one, or one for each")
    return list(options)
