"""How the next token is chosen: options, and pure functions logits -> logits -> ids over all rows of a batch at once.

Flow: logits [B, V] -> repetition_penalty -> temperature -> top_k -> top_p -> min_p -> cutoffs (`logit_rules.py`)
-> sample.  A filtered-out token has logit -inf.  The order is the one the field uses, so numbers found elsewhere mean
the same here.
top-p: nucleus sampling (arXiv:1904.09751); min-p (arXiv:2407.01082); repetition penalty (arXiv:1909.05858).
Every filter takes one number for all rows, or a tensor [B, 1] with one for each (`OptionTable`); a row gets the same
logits either way.
Traps: temperature 0 means greedy.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generation.logit_rules import (
    NEVER,
    LogitRules,
    beyond,
    epsilon_cutoff,
    eta_cutoff,
    is_number,
    is_whole,
    typical_p,
)

LARGEST = 2**53  # whole numbers of options; larger ones are no exact float64
COLDEST = 1e-10  # lower temperatures choose no differently, but their scores overflow


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to write an answer.

    max_tokens: longest answer.  min_tokens: no end token before that many.  temperature: 0 = greedy.  top_k: 0 = off.
    top_p: 1 = off.  min_p: 0 = off.  repetition_penalty: 1 = off; seen tokens of prompt and answer.  seed: None = a new
    one each time; two rows with one seed and one prompt say the same.  stop: texts that end the answer and are not part
    of it.  beams: beam search when above 1, whose continuations are drawn where there is a temperature.
    length_penalty: beam scores are divided by length to this power.  early_stopping: True ends a beam search with as
    many finished answers as beams, False when a better one is improbable, "never" when it is impossible.  stop_loops:
    0 = off, n = end an answer whose last n tokens go in a circle (`stopping.Loop`; not in beam search, nor under a
    grammar).  logprobs: None = off, n = log-probability of each token and of the n likeliest, before other options.
    rules: bans, biases and forced ids.
    Raises ConfigError naming the option.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    beams: int = 1
    length_penalty: float = 1.0
    logprobs: int | None = None
    min_tokens: int = 0
    early_stopping: bool | str = False
    stop_loops: int = 0
    rules: LogitRules = field(default_factory=LogitRules)

    def __post_init__(self) -> None:
        stop: Any = self.stop
        stop = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list | tuple | set) else stop
        object.__setattr__(self, "stop", stop)
        self._need_whole("max_tokens", 1, "1 or more")
        self._need_whole("min_tokens", 0, "0 (off) or more")
        self._need_number("temperature", 0, float("inf"), "0 (greedy) or more")
        self._need_whole("top_k", 0, "0 (off) or more")
        self._need_whole("stop_loops", 0, "0 (off) or more")
        self._need_number("top_p", 0, 1, "above 0 and at most 1 (off)")
        self._need("top_p", self.top_p > 0, "above 0 and at most 1 (off)")
        self._need_number("min_p", 0, 1, "from 0 (off) to 1")
        self._need_number("repetition_penalty", 0, float("inf"), "above 0; 1 is off")
        self._need("repetition_penalty", self.repetition_penalty > 0, "above 0; 1 is off")
        if self.seed is not None:
            self._need_whole("seed", 0, "None or from 0 to 2**63 - 1", 2**63 - 1)
        texts = isinstance(stop, tuple) and all(isinstance(text, str) and text for text in stop)
        self._need("stop", texts, "texts that are not empty")
        self._need_whole("beams", 1, "1 (off) or more")
        self._need_number("length_penalty", float("-inf"), float("inf"), "a finite number")
        if self.logprobs is not None:
            self._need_whole("logprobs", 0, "None or 0 and more")
        self._need("early_stopping", self.early_stopping in (True, False, "never"), "True, False or 'never'")
        self._need("rules", isinstance(self.rules, LogitRules), "LogitRules")
        if self.beams > 1 and self.logprobs is not None:
            raise ConfigError("SamplingOptions: beams above 1 goes without logprobs; leave one of them out")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def _need_whole(self, name: str, least: int, expected: str, most: int = LARGEST) -> None:
        value = getattr(self, name)
        self._need(name, is_whole(value) and least <= value <= most, expected)
        object.__setattr__(self, name, int(value))  # of numpy's as well

    def _need_number(self, name: str, least: float, most: float, expected: str) -> None:
        """A finite number of that range, both borders included."""
        value = getattr(self, name)
        self._need(name, is_number(value) and least <= value <= most and abs(value) <= sys.float_info.max, expected)
        object.__setattr__(self, name, float(value))

    def _need(self, name: str, fine: bool, expected: str) -> None:
        if not fine:
            raise ConfigError(f"SamplingOptions.{name}: expected {expected}, found {getattr(self, name)!r}")


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Makes tokens `seen` (bool [B, V]) less likely: positive logits / penalty, negative ones * penalty."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def temperature(logits: Tensor, value: float | Tensor) -> Tensor:
    """Logits [B, V] / value, value above 0."""
    return logits / value


def top_k(logits: Tensor, k: int | Tensor, largest: int | None = None) -> Tensor:
    """Keep the k likeliest tokens of each row (more where they tie); 0 keeps all.

    k int64 [B, 1] goes with `largest`, a bound on its values that the host knows.
    """
    size = logits.shape[-1]
    if isinstance(k, int):
        return logits if k == 0 else logits.masked_fill(logits < logits.topk(min(k, size)).values[..., -1:], NEVER)
    likeliest = logits.topk(min(size if largest is None else largest, size)).values
    threshold = likeliest.gather(-1, (k - 1).clamp(0, likeliest.shape[-1] - 1).expand(len(logits), 1))
    return logits.masked_fill((logits < threshold) & (k > 0), NEVER)


def top_p(logits: Tensor, p: float | Tensor, keep: int = 1) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p; never fewer than `keep`.

    1 keeps all, also what is too unlikely for a float32.
    """
    ordered, order = logits.sort(descending=False)
    # Rounded once, from a double, whether p is one number or one of each row.
    rest = 1 - p if isinstance(p, float | int) else (1 - p.double()).to(logits.dtype)
    dropped = ordered.softmax(-1).cumsum(-1) <= rest
    dropped[..., -keep:] = False
    if isinstance(p, Tensor):
        dropped &= p < 1
    return logits.masked_fill(dropped.scatter(-1, order, dropped), NEVER)


def min_p(logits: Tensor, p: float | Tensor, keep: int = 1) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest; never fewer than `keep`."""
    probabilities = logits.softmax(-1)
    dropped = probabilities < p * probabilities.amax(-1, keepdim=True)
    return logits.masked_fill(dropped & beyond(logits, keep), NEVER)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """One id for each row of logits [B, V], int64 [B], by inverting softmax(logits) at `uniform` float64 [B] in [0, 1).

    -1 where the scores are NaN, or every token is filtered out.
    """
    edges = torch.softmax(logits.double(), -1).cumsum(-1)
    total = edges[..., -1]
    # Strictly below the total, so that rounding can never select an id behind the last possible one.
    target = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    ids = torch.searchsorted(edges, target[..., None], right=True)[..., 0]
    return torch.where(total > 0, ids, -1)


class OptionTable:
    """Options of all rows as tensors on the logits' device, made once; each step is then a few calls for all rows.

    A filter runs when some row needs it; a neutral number leaves the others as they are.  keep: tokens that every
    filter leaves at least.
    """

    def __init__(self, options: Sequence[SamplingOptions], device: torch.device | str, keep: int = 1) -> None:
        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        top_ks = [0 if option.greedy or not option.top_k else max(option.top_k, keep) for option in options]
        top_ps = [1.0 if option.greedy else option.top_p for option in options]
        min_ps = [0.0 if option.greedy else option.min_p for option in options]
        temperatures = [max(option.temperature, COLDEST) if option.temperature else 1.0 for option in options]
        self._penalty = column([option.repetition_penalty for option in options])
        self._temperature, self._min_p = column(temperatures), column(min_ps)
        self._top_k, self._top_p = column(top_ks, torch.int64), column(top_ps, torch.float64)
        self.penalised = any(option.repetition_penalty != 1 for option in options)
        self._largest, self._keep = max(top_ks), keep
        self._any_temperature = set(temperatures) != {1.0}
        self._any_top_p, self._any_min_p = min(top_ps) < 1, max(min_ps) > 0
        rules = [LogitRules() if option.greedy else option.rules for option in options]
        self._cutoffs = [
            (cutoff, column(values))
            for cutoff, values, neutral in (
                (typical_p, [each.typical_p for each in rules], 1.0),
                (epsilon_cutoff, [each.epsilon_cutoff for each in rules], 0.0),
                (eta_cutoff, [each.eta_cutoff for each in rules], 0.0),
            )
            if set(values) != {neutral}
        ]

    def penalise(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """The repetition penalty, if some row has one.  logits float [B, V]; seen bool [B, V]."""
        return logits if not self.penalised or seen is None else repetition_penalty(logits, seen, self._penalty)

    def adjust(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """Both, in order."""
        return self.filter(self.penalise(logits, seen))

    def filter(self, logits: Tensor) -> Tensor:
        """Temperature and all filters in order, as far as some row's options ask for them.  logits float [B, V]."""
        if self._any_temperature:
            logits = temperature(logits, self._temperature)
        if self._largest:
            logits = top_k(logits, self._top_k, self._largest)
        if self._any_top_p:
            logits = top_p(logits, self._top_p, self._keep)
        if self._any_min_p:
            logits = min_p(logits, self._min_p, self._keep)
        for cutoff, values in self._cutoffs:
            logits = cutoff(logits, values, self._keep)
        return logits


def adjust(logits: Tensor, options: SamplingOptions, seen: Tensor | None = None) -> Tensor:
    """The filters of one set of options for all rows. logits float [B, V]; seen bool [B, V]."""
    return OptionTable([options], logits.device).adjust(logits, seen)
