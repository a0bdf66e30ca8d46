"""Rules for the next token that depend on what a row has written: bans, biases, forced and suppressed ids.

    scores [R, V], ids of each row so far -> bias -> (repetition penalty) -> constrain -> scores [R, V]

Names and effects are those of `GenerationConfig` in the transformers library, so that a generation_config.json means
the same here.  Where no row has a rule, nothing of this runs.
Traps: forced ids overrule every ban; an n-gram is looked for in prompt and answer together, padding left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError

NEVER = float("-inf")
Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LogitRules:
    """Rules of one row; the defaults do nothing.

    no_repeat_ngram_size: no sequence of that many ids comes twice.  bad_words_ids: sequences that never come.
    sequence_bias: ((ids, bias), ...), added to the score of the last id where the others precede it.  suppress_tokens:
    ids never written, begin_suppress_tokens: not as the first one.  forced_bos_token_id: the first id of the answer.
    forced_eos_token_id: ids of which one ends an answer that reaches max_tokens.  exponential_decay_length_penalty:
    (start, factor), makes the end likelier from the start-th token on.  remove_invalid_values: NaN and infinite scores
    become finite ones.  typical_p (arXiv:2202.00666; 1 = off), epsilon_cutoff and eta_cutoff (arXiv:2210.15191;
    0 = off) leave out tokens where one is sampled.  frequency_penalty, presence_penalty: from -2 to 2, 0 = off; taken
    from the score of each token of the answer so far, as often as it was written, or once.
    Raises ConfigError naming the option.
    """

    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[Ids, ...] = ()
    sequence_bias: tuple[tuple[Ids, float], ...] = ()
    suppress_tokens: Ids = ()
    begin_suppress_tokens: Ids = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Ids = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not is_whole(self.no_repeat_ngram_size) or self.no_repeat_ngram_size < 0:
            self._refuse("no_repeat_ngram_size", "0 (off) or more")
        for name, low, high in (("typical_p", 0, 1), ("epsilon_cutoff", -1, 1), ("eta_cutoff", -1, 1)):
            value = getattr(self, name)
            if not is_number(value) or not low < value <= high or value < 0:
                self._refuse(
                    name, "a number above 0, 1 for off" if name == "typical_p" else "a number from 0 (off) to 1"
                )
        for name in ("frequency_penalty", "presence_penalty"):
            if not is_number(getattr(self, name)) or not -2 <= getattr(self, name) <= 2:
                self._refuse(name, "a number from -2 to 2, 0 for off")
        if not isinstance(self.remove_invalid_values, bool):
            self._refuse("remove_invalid_values", "True or False")
        for name in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id"):
            self._set(name, self._ids(name, getattr(self, name)))
        if self.forced_bos_token_id is not None and not is_id(self.forced_bos_token_id):
            self._refuse("forced_bos_token_id", "a token id")
        if not isinstance(self.bad_words_ids, list | tuple):
            self._refuse("bad_words_ids", "a list of lists of token ids")
        self._set("bad_words_ids", tuple(self._ids("bad_words_ids", ids) for ids in self.bad_words_ids))
        self._set("sequence_bias", self._biases())
        if self.exponential_decay_length_penalty is not None:
            pair = self.exponential_decay_length_penalty
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not (is_whole(pair[0]) and is_number(pair[1])):
                self._refuse("exponential_decay_length_penalty", "(start, factor)")
            self._set("exponential_decay_length_penalty", (int(pair[0]), float(pair[1])))

    @property
    def active(self) -> bool:
        """Whether something other than the cutoffs of sampling is set."""
        neutral = LogitRules(typical_p=self.typical_p, epsilon_cutoff=self.epsilon_cutoff, eta_cutoff=self.eta_cutoff)
        return self != neutral

    def _biases(self) -> tuple[tuple[Ids, float], ...]:
        given: Any = self.sequence_bias
        pairs = list(given.items()) if isinstance(given, Mapping) else given
        if not isinstance(pairs, list | tuple):
            self._refuse("sequence_bias", "a list of (token ids, bias)")
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not is_number(pair[1]):
                self._refuse("sequence_bias", "a list of (token ids, bias)")
        return tuple((self._ids("sequence_bias", ids), float(bias)) for ids, bias in pairs)

    def _ids(self, name: str, value: Any) -> Ids:
        ids = value.tolist() if isinstance(value, Tensor) else value
        ids = [ids] if is_whole(ids) else ids
        if not isinstance(ids, list | tuple) or not all(is_id(each) for each in ids):
            self._refuse(name, "token ids")
        return tuple(int(each) for each in ids)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _refuse(self, name: str, expected: str) -> None:
        raise ConfigError(f"LogitRules.{name}: expected {expected}, found {getattr(self, name)!r}")


def is_whole(value: Any) -> bool:
    """An integer of Python or numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """An integer or floating-point number that is not NaN; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == value


def is_id(value: Any) -> bool:
    return is_whole(value) and value >= 0


class LogitRuleTable:
    """The rules of all rows of a batch.

    prompts: the real ids of each row.  limits: its longest answer.  ends: ids that end an answer.
    """

    def __init__(
        self,
        rules: Sequence[LogitRules],
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        ends: Sequence[int] = (),
    ) -> None:
        self._rules = tuple(rules)
        self._prompts = [list(prompt) for prompt in prompts]
        self._limits = tuple(limits)
        self._ends = list(ends)
        self._rows = [row for row, each in enumerate(rules) if each.active]

    def __bool__(self) -> bool:
        return bool(self._rows)

    def bias(self, scores: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """scores float [R, V] with `sequence_bias` added; written: the answer of each row so far."""
        biased = [row for row in self._rows if self._rules[row].sequence_bias]
        if not biased:
            return scores
        scores = scores.clone()
        for row in biased:
            history = [*self._prompts[row], *written[row]]
            for ids, bias in self._rules[row].sequence_bias:
                if follows(ids, history) and ids[-1] < scores.shape[-1]:
                    scores[row, ids[-1]] += bias
        return scores

    def constrain(self, scores: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """scores float [R, V] after all other rules, in the published order."""
        scores = scores.clone()
        for row in self._rows:
            self._constrain(scores[row], row, written[row])
        return scores

    def _constrain(self, scores: Tensor, row: int, written: Sequence[int]) -> None:
        """One row's scores [V], changed in place."""
        rules, history = self._rules[row], [*self._prompts[row], *written]
        if written and (rules.frequency_penalty or rules.presence_penalty):
            counts = Counter(written)
            ids = torch.tensor(list(counts), device=scores.device)
            times = torch.tensor(list(counts.values()), dtype=scores.dtype, device=scores.device)
            scores[ids] -= times * rules.frequency_penalty + rules.presence_penalty
        banned = repeated(history, rules.no_repeat_ngram_size)
        banned |= {ids[-1] for ids in rules.bad_words_ids if ids and not self._is_end(ids) and follows(ids, history)}
        _fill(scores, banned, NEVER)
        if rules.forced_bos_token_id is not None and not written:
            _force(scores, [rules.forced_bos_token_id])
        if rules.forced_eos_token_id and len(written) == self._limits[row] - 1:
            _force(scores, rules.forced_eos_token_id)
        if rules.remove_invalid_values:
            limits = torch.finfo(scores.dtype)
            scores.nan_to_num_(0.0, limits.max, limits.min)
        if rules.exponential_decay_length_penalty is not None:
            self._decay(scores, len(written), *rules.exponential_decay_length_penalty)
        _fill(scores, rules.suppress_tokens, NEVER)
        # A forced first id is no choice, so that the second one is the first that can be suppressed.
        if len(written) == (rules.forced_bos_token_id is not None):
            _fill(scores, rules.begin_suppress_tokens, NEVER)

    def _decay(self, scores: Tensor, written: int, start: int, factor: float) -> None:
        if written <= start:
            return
        ends = torch.tensor([id for id in self._ends if id < len(scores)], dtype=torch.int64, device=scores.device)
        gain = scores[ends].abs() * (factor ** (written - start) - 1)
        scores[ends] += gain.masked_fill(~scores[ends].isfinite(), 0.0)

    def _is_end(self, ids: Ids) -> bool:
        return len(ids) == 1 and ids[0] in self._ends


def follows(ids: Sequence[int], history: Sequence[int]) -> bool:
    """Whether the last of `ids` would complete them behind `history`."""
    before = list(ids[:-1])
    return len(before) <= len(history) and list(history[len(history) - len(before) :]) == before


def repeated(history: Sequence[int], size: int) -> set[int]:
    """Ids that would complete an n-gram of `size` ids that `history` holds already."""
    if not 0 < size <= len(history):
        return set()
    prefix = list(history[len(history) + 1 - size :])
    windows = range(len(history) - size + 1)
    return {history[first + size - 1] for first in windows if list(history[first : first + size - 1]) == prefix}


def _fill(scores: Tensor, ids: Sequence[int] | set[int], value: float) -> None:
    known = [id for id in ids if id < len(scores)]
    if known:
        scores[torch.tensor(known, device=scores.device)] = value


def _force(scores: Tensor, ids: Sequence[int]) -> None:
    scores.fill_(NEVER)
    _fill(scores, ids, 0.0)


def beyond(logits: Tensor, keep: int) -> Tensor:
    """bool [B, V]: less likely than the `keep` likeliest."""
    if keep == 1:
        return logits < logits.amax(-1, keepdim=True)
    return logits < logits.topk(min(keep, logits.shape[-1])).values[..., -1:]


def typical_p(logits: Tensor, mass: Tensor, keep: int = 1) -> Tensor:
    """Keep the tokens whose information is nearest to the expected one, until they hold `mass` [B, 1]; 1 keeps all.

    Of this and the other cutoffs `keep` tokens remain at least.
    """
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).nansum(-1, keepdim=True)
    distance = (-logprobs - entropy).abs()
    ordered, order = distance.sort(-1)
    total = logits.gather(-1, order).softmax(-1).cumsum(-1)
    last = (total < mass).sum(-1, keepdim=True).clamp_max(logits.shape[-1] - 1)
    dropped = ordered > ordered.gather(-1, last)
    dropped[..., :keep] = False
    return logits.masked_fill(dropped.scatter(-1, order, dropped) & (mass < 1), NEVER)


def epsilon_cutoff(logits: Tensor, epsilon: Tensor, keep: int = 1) -> Tensor:
    """Drop tokens less probable than `epsilon` [B, 1], but never the likeliest."""
    unlikely = logits.softmax(-1) < epsilon
    return logits.masked_fill(unlikely & beyond(logits, keep), NEVER)


def eta_cutoff(logits: Tensor, epsilon: Tensor, keep: int = 1) -> Tensor:
    """The same with a bound that falls with the entropy: min(epsilon, sqrt(epsilon) * exp(-entropy))."""
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).nansum(-1, keepdim=True)
    return epsilon_cutoff(logits, torch.minimum(epsilon, epsilon.sqrt() * (-entropy).exp()), keep)
