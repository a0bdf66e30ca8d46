"""How the next token is chosen: options, pure functions logits -> logits, and a draw that is private to its row.

Flow: logits [B, V] -> repetition_penalty -> temperature -> top_k -> top_p -> min_p -> draw.  A filtered-out token has
logit -inf.  The order is the one the field uses, so numbers found elsewhere mean the same here.
top-p: nucleus sampling (arXiv:1904.09751); min-p (arXiv:2407.01082); repetition penalty (arXiv:1909.05858).
Traps: temperature 0 means greedy.  Every row draws from its own generator on the CPU, so that neither its neighbours
nor the device change what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polymodal.errors import ConfigError, WeightsError

NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to write an answer.

    max_tokens: longest answer.  min_tokens: no end token before that many.  temperature: 0 = greedy.  top_k: 0 = off.
    top_p: 1 = off.  min_p: 0 = off.  repetition_penalty: 1 = off; seen tokens of prompt and answer.  seed: None = a new
    one each time; two rows with one seed and one prompt say the same.  stop: texts that end the answer and are not part
    of it.  beams: beam search when above 1, which is not random.  length_penalty: beam scores are divided by length to
    this power.  logprobs: None = off, n = log-probability of each token and of the n likeliest, before other options.
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

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        self._need("max_tokens", self.max_tokens >= 1, "1 or more")
        self._need("min_tokens", self.min_tokens >= 0, "0 (off) or more")
        self._need("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more")
        self._need("top_k", self.top_k >= 0, "0 (off) or more")
        self._need("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)")
        self._need("min_p", 0 <= self.min_p <= 1, "from 0 (off) to 1")
        self._need("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0; 1 is off")
        self._need("seed", self.seed is None or 0 <= self.seed < 2**63, "None or from 0 to 2**63 - 1")
        self._need("stop", all(isinstance(text, str) and text for text in stop), "texts that are not empty")
        self._need("beams", self.beams >= 1, "1 (off) or more")
        self._need("length_penalty", abs(self.length_penalty) < float("inf"), "a finite number")
        self._need("logprobs", self.logprobs is None or self.logprobs >= 0, "None or 0 and more")
        if self.beams > 1 and (self.temperature > 0 or stop or self.logprobs is not None):
            raise ConfigError("SamplingOptions: beams above 1 goes without temperature, stop and logprobs")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def _need(self, name: str, fine: bool, expected: str) -> None:
        if not fine:
            raise ConfigError(f"SamplingOptions.{name}: expected {expected}, found {getattr(self, name)!r}")


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens `seen` (bool [B, V]) less likely: positive logits / penalty, negative ones * penalty."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def temperature(logits: Tensor, value: float) -> Tensor:
    """Logits [B, V] / value, value above 0."""
    return logits / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens of each row (more where they tie)."""
    border = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < border, NEVER)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p; never fewer than one."""
    ordered, order = logits.sort(descending=False)
    dropped = ordered.softmax(-1).cumsum(-1) <= 1 - p
    dropped[..., -1] = False
    return logits.masked_fill(dropped.scatter(-1, order, dropped), NEVER)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), NEVER)


def adjust(logits: Tensor, options: SamplingOptions, seen: Tensor | None = None) -> Tensor:
    """All of the above in order, as far as the options ask for them. logits float [B, V]; seen bool [B, V]."""
    if options.repetition_penalty != 1 and seen is not None:
        logits = repetition_penalty(logits, seen, options.repetition_penalty)
    if options.greedy:
        return logits
    logits = temperature(logits, options.temperature)
    if options.top_k:
        logits = top_k(logits, options.top_k)
    if options.top_p < 1:
        logits = top_p(logits, options.top_p)
    return min_p(logits, options.min_p) if options.min_p else logits


def only(logits: Tensor, allowed: Tensor) -> Tensor:
    """Keep the ids in `allowed` (int64 [n]) of one row [V]: structured output, grids of discrete image tokens."""
    kept = torch.full_like(logits, NEVER)
    kept[allowed] = logits[allowed]
    return kept


def draw(logits: Tensor, generator: torch.Generator) -> int:
    """One id from softmax(logits [V]) by inverting its distribution at one uniform number of the CPU generator.

    Raises WeightsError for scores that are no numbers.
    """
    edge = torch.softmax(logits.double(), -1).cumsum(-1)
    if not bool(edge[-1] > 0):
        raise WeightsError("the model's scores are no numbers (NaN): its weights are damaged or its dtype is too small")
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    # Strictly below the total, so that rounding can never select an id behind the last possible one.
    target = torch.minimum(uniform.to(edge.device) * edge[-1], edge[-1].nextafter(edge.new_zeros(())))
    return int(torch.searchsorted(edge, target, right=True))


class Sampler:
    """Chooses tokens for the rows of a batch, each by its own options, generator and history."""

    def __init__(
        self, options: Sequence[SamplingOptions], prompts: Sequence[Sequence[int]], banned: Sequence[int] = ()
    ) -> None:
        """prompts: the real ids of each row, which the repetition penalty counts; banned: ids never written."""
        self._options = tuple(options)
        self._generators = [_generator(option.seed) for option in options]
        self._prompts = prompts
        self._banned = [index for index in banned if index >= 0]
        self._seen: Tensor | None = None
        # One vectorised call where the rows differ in nothing but seed, stop and length.
        self._alike = len({replace(option, seed=None, stop=(), max_tokens=1) for option in options}) == 1

    def choose(self, logits: Tensor, allowed: Sequence[Tensor | None] | None = None) -> list[int]:
        """logits float [B, V] -> one id for each row; `allowed` limits rows to some ids."""
        if self._banned:
            logits = logits.index_fill(-1, torch.tensor(self._banned, device=logits.device), NEVER)
        if allowed is not None:
            rows = [
                row if ids is None else only(row, ids.to(row.device)) for row, ids in zip(logits, allowed, strict=True)
            ]
            logits = torch.stack(rows)
        seen = self._history(logits)
        if self._alike:
            logits = adjust(logits, self._options[0], seen)
        else:
            logits = torch.cat(
                [
                    adjust(logits[i : i + 1], option, None if seen is None else seen[i : i + 1])
                    for i, option in enumerate(self._options)
                ]
            )
        best = logits.argmax(-1).tolist()
        chosen = [
            index if option.greedy else draw(row, generator)
            for index, row, option, generator in zip(best, logits, self._options, self._generators, strict=True)
        ]
        if seen is not None:
            seen[torch.arange(len(chosen)), chosen] = True
        return chosen

    def _history(self, logits: Tensor) -> Tensor | None:
        if all(option.repetition_penalty == 1 for option in self._options):
            return None
        if self._seen is None:
            self._seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            for row, ids in enumerate(self._prompts):
                self._seen[row, [index for index in ids if index >= 0]] = True
        return self._seen


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
