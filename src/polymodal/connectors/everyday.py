"""Names of photographs: what other networks know of a picture, in everyday words, beside the names that were learned.

    seen [N, C]     class probabilities of a classifier -> summed by word -> [N, U]
    learned [N, V]  log-probabilities of the learned names
    summary [N, W] -> style [N, 1], a linear regression: 1 for photographs of scenes, 0 for drawings and small pictures
    gate = sigmoid(a + b log max of the words + c log max of the names + d style): which of the two knows better?
    gate * words + (1 - gate) * names -> probabilities of all names [N, V + extra]
    found [N, K]    how surely a detector found a thing of each kind -> shared out by the squares of their odds -> words
    found_gate = sigmoid(a + b logit max of the found + c log max of those names + d style), mixed in likewise
    -> log-probabilities [N, V + extra]
    there_gate = sigmoid(a + b logit found + c log of that kind's name + d style), for each kind: is such a thing there?

Why: a classifier of 1,000 classes of photographs knows elephants and trams that no drawing taught the connector, under
names that nobody says ("African bush elephant"), and a detector of things in ordinary scenes knows people and tables; a
mixture of the distributions lets the one speak that is sure (mixture of experts, Jacobs et al., 1991), and is fitted
with few photographs, the style in closed form.  The mixture says what the first name is: things that are all there take
its probability from each other.  What else is there is asked of each kind by itself.

Traps: `word_of` and `thing_of` count on in the list of learned names: words that were not learned have the indices V
and above.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-9  # below every probability that matters; keeps logarithms finite
CEILING = 1 - 1e-6  # and odds


@dataclass(frozen=True, kw_only=True)
class EverydayConfig:
    """`classes` C of the classifier, `kinds` K of things that a detector finds (0: there is none); `extra`: number of
    their everyday words that are not among the learned names.
    """

    classes: int = 1000
    kinds: int = 0
    extra: int = 0

    def build(self, names: int, summary: int) -> Everyday:
        return Everyday(self, names, summary)


class Everyday(nn.Module):
    """`found [N, K], seen [N, C], learned [N, V], summary [N, W] -> log-probabilities [N, V + extra]`; see above.

    Saved: `word_of` [C] and `thing_of` [K], the index of each class's and kind's word among all V + extra names;
    `style`, `gate` [4], `found_gate` [4] and `there_gate` [4].
    """

    word_of: Tensor
    thing_of: Tensor

    def __init__(self, config: EverydayConfig, names: int, summary: int):
        super().__init__()
        self.config = config
        self.names = names + config.extra
        self.style = nn.Linear(summary, 1)
        self.gate = nn.Parameter(torch.tensor([0.0, 1.0, -1.0, 0.0]))
        self.register_buffer("word_of", torch.zeros(config.classes, dtype=torch.long))
        if config.kinds:
            self.found_gate = nn.Parameter(torch.tensor([0.0, 1.0, -1.0, 0.0]))
            self.there_gate = nn.Parameter(torch.tensor([0.0, 1.0, 0.0, 0.0]))
            self.register_buffer("thing_of", torch.zeros(config.kinds, dtype=torch.long))

    def words(self, seen: Tensor) -> Tensor:
        """Class probabilities [N, C] -> probabilities of all names [N, V + extra]."""
        return self._spread(seen, self.word_of)

    def things(self, found: Tensor) -> Tensor:
        """What was found [N, K], 0..1 each -> probabilities of all names [N, V + extra]."""
        odds = (2 * found.clamp(FLOOR, CEILING).logit()).softmax(-1)  # most kinds are a little likely everywhere
        return self._spread(odds, self.thing_of)

    def share(self, words: Tensor, learned: Tensor, style: Tensor) -> Tensor:
        """The share [N, 1] of the words in the mixture; style [N, 1]."""
        sure = words.amax(-1, keepdim=True).clamp(min=FLOOR).log()
        return self._open(self.gate, sure, learned.exp(), style)

    def found_share(self, found: Tensor, names: Tensor, style: Tensor) -> Tensor:
        """The share [N, 1] of what was found [N, K], beside probabilities of names [N, V + extra]; style [N, 1]."""
        sure = found.amax(-1, keepdim=True).clamp(FLOOR, CEILING).logit()
        return self._open(self.found_gate, sure, names, style)

    def mix(self, words: Tensor, learned: Tensor, style: Tensor) -> Tensor:
        """Probabilities of the words, log-probabilities of the names, and the style -> probabilities of both."""
        share = self.share(words, learned, style)
        return share * words + (1 - share) * F.pad(learned.exp(), (0, self.config.extra))

    def mix_found(self, found: Tensor, names: Tensor, style: Tensor) -> Tensor:
        """What was found [N, K] and probabilities of names -> probabilities of both, [N, V + extra]."""
        share = self.found_share(found, names, style)
        return share * self.things(found) + (1 - share) * names

    def kinds_there(self, found: Tensor, log_probs: Tensor, style: Tensor) -> Tensor:
        """The chance [N, K] that a thing of each kind is there, by `forward`'s log-probabilities; style [N, 1]."""
        sure = found.clamp(FLOOR, CEILING).logit()
        facts = torch.stack([torch.ones_like(sure), sure, log_probs[:, self.thing_of], style.expand_as(sure)], dim=-1)
        return (facts @ self.there_gate.float()).sigmoid()

    def there(self, found: Tensor, log_probs: Tensor, summary: Tensor) -> Tensor:
        """`kinds_there` by name, [N, V + extra], 0 for all other names; found [N, K], summary [N, W]."""
        return self._spread(self.kinds_there(found.float(), log_probs, self.style(summary).float()), self.thing_of)

    def forward(self, found: Tensor, seen: Tensor, learned: Tensor, summary: Tensor) -> Tensor:
        # half precision has no place for FLOOR
        style = self.style(summary).float()
        names = self.mix(self.words(seen.float()), learned.float(), style)
        if self.config.kinds:
            names = self.mix_found(found.float(), names, style)
        return names.clamp(min=FLOOR).log()

    def _spread(self, values: Tensor, index: Tensor) -> Tensor:
        """Values [N, M] by class or kind, to their words: [N, V + extra]."""
        return values.new_zeros(len(values), self.names).index_add(1, index, values)

    def _open(self, gate: Tensor, sure: Tensor, names: Tensor, style: Tensor) -> Tensor:
        other = names.amax(-1, keepdim=True).clamp(min=FLOOR).log()
        facts = torch.cat([torch.ones_like(style), sure, other, style], dim=-1)
        return (facts @ gate.float()).sigmoid()[:, None]
