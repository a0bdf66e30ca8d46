"""Names of photographs: what the encoder's own classifier sees, in everyday words, beside the names that were learned.

    seen [N, S, C]  class probabilities of each cell -> mean over cells -> summed by word -> [N, U]
    learned [N, V]  log-probabilities of the learned names
    summary [N, W] -> style [N, 1], a linear regression: 1 for photographs of scenes, 0 for drawings and small pictures
    gate = sigmoid(a + b log max of the words + c log max of the names + d style): which of the two knows better?
    gate * words + (1 - gate) * names -> log-probabilities [N, V + extra]

Why: a classifier of 1,000 classes of photographs knows elephants and trams that no drawing taught the connector, under
names that nobody says ("African bush elephant"); a mixture of the two distributions lets the one speak that is sure
(mixture of experts, Jacobs et al., 1991), and is fitted with few photographs, the style in closed form.

Traps: `word_of` counts on in the list of learned names: its words that were not learned have the indices V and above.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-9  # below every probability that matters; keeps logarithms finite


@dataclass(frozen=True, kw_only=True)
class EverydayConfig:
    """`classes` C of the classifier; `extra`: number of its everyday words that are not among the learned names."""

    classes: int = 1000
    extra: int = 0

    def build(self, names: int, summary: int) -> Everyday:
        return Everyday(self, names, summary)


class Everyday(nn.Module):
    """`seen [N, S, C], learned [N, V], summary [N, W] -> log-probabilities [N, V + extra]`; see the module docstring.

    Saved: `word_of` [C], the index of each class's word among all V + extra names; `style` and `gate` [4], see above.
    """

    word_of: Tensor

    def __init__(self, config: EverydayConfig, names: int, summary: int):
        super().__init__()
        self.config = config
        self.names = names + config.extra
        self.style = nn.Linear(summary, 1)
        self.gate = nn.Parameter(torch.tensor([0.0, 1.0, -1.0, 0.0]))
        self.register_buffer("word_of", torch.zeros(config.classes, dtype=torch.long))

    def words(self, seen: Tensor) -> Tensor:
        """Class probabilities of cells [N, S, C] -> probabilities of all names [N, V + extra], mean over cells."""
        spread = seen.new_zeros(len(seen), self.names)
        return spread.index_add(1, self.word_of, seen.mean(1))

    def share(self, words: Tensor, learned: Tensor, style: Tensor) -> Tensor:
        """The share [N, 1] of the words in the mixture; style [N, 1]."""
        surest = [x.amax(-1, keepdim=True).clamp(min=FLOOR).log() for x in (words, learned.exp())]
        facts = torch.cat([torch.ones_like(style), *surest, style], dim=-1)
        return (facts @ self.gate.float()).sigmoid()[:, None]

    def mix(self, words: Tensor, learned: Tensor, style: Tensor) -> Tensor:
        """Probabilities of the words, log-probabilities of the names and the style -> log-probabilities of both."""
        share = self.share(words, learned, style)
        names = F.pad(learned.exp(), (0, self.config.extra))
        return (share * words + (1 - share) * names).clamp(min=FLOOR).log()

    def forward(self, seen: Tensor, learned: Tensor, summary: Tensor) -> Tensor:
        # half precision has no place for FLOOR
        return self.mix(self.words(seen.float()), learned.float(), self.style(summary).float())
