"""D&R Net: sarcasm of a tweet, from what its words and picture share, what each has alone, and how they are related.

    words [B, T, F] -> LSTM in both directions -> h [B, T, 2 W], its last states t [B, 2 W];  picture -> v [B, F]
    decomposition  shared and private linears of t and v -> contrast = [private t ; private v ; shared t - shared v]
    relation       adjective-noun pairs a [B, K, F] look at the words: c = softmax(a M h) h;  r = tanh(N [a ; c]);
                   association = sum of r, weighted by softmax(w r)
    [contrast ; association] -> linear, ReLU -> linear -> logits [B, 2]

Reasoning with Multimodal Sarcastic Tweets (ACL 2020).  Losses: cross-entropy, and shared and private vectors of one
modality shall be orthogonal: |S^T P|^2 / B^2 of the batch.
Trap: the second direction begins at each row's own last word, so rows of unequal length must say theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.models.dialogue_rnn import reversal
from polymodal.models.feature_inputs import checked, last_step, step_mask
from polymodal.models.output import Output, total_loss
from polymodal.models.score_head import require_names
from polymodal.nn.losses import classification_loss
from polymodal.nn.lstm import LSTM

INPUTS = ("text", "vision", "pairs")


@dataclass(frozen=True, kw_only=True)
class DecompositionRelationConfig:
    """features: widths of a word, of the picture, of an adjective-noun pair.  states: of the LSTM in each direction.

    width: of shared, private and related vectors.  orthogonal: weight of that loss.
    """

    features: Mapping[str, int]
    states: int = 128
    width: int = 128
    hidden: int = 128
    classes: int = 2
    orthogonal: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_names("D&R Net: features", self.features, INPUTS)

    def build(self) -> DecompositionRelation:
        return DecompositionRelation(self)


class DecompositionRelation(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "features"})

    def __init__(self, config: DecompositionRelationConfig) -> None:
        super().__init__()
        self.config = config
        words, picture, pair = (config.features[name] for name in INPUTS)
        both, width = 2 * config.states, config.width
        self.forwards = LSTM(words, config.states, 1)
        self.backwards = LSTM(words, config.states, 1)
        sources = {"text": both, "vision": picture}
        self.shared = nn.ModuleDict({name: nn.Linear(size, width) for name, size in sources.items()})
        self.private = nn.ModuleDict({name: nn.Linear(size, width) for name, size in sources.items()})
        self.match = nn.Linear(pair, both, bias=False)
        self.relation = nn.Linear(pair + both, width)
        self.weight = nn.Linear(width, 1, bias=False)
        self.head1 = nn.Linear(4 * width, config.hidden)
        self.head2 = nn.Linear(config.hidden, config.classes)
        self.dropout = nn.Dropout(config.dropout)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """shared and private vectors of text and picture, and the association, each `[B, D]`."""
        given = checked("D&R Net", batch, self.config.features)
        lengths = batch.get("text_lengths")
        words, last = self.read(given["text"], lengths)
        sources = {"text": last, "vision": given["vision"].mean(1)}
        parts = {f"shared_{name}": self.shared[name](x) for name, x in sources.items()}
        parts |= {f"private_{name}": self.private[name](x) for name, x in sources.items()}
        masks = step_mask(words, lengths), step_mask(given["pairs"], batch.get("pairs_lengths"))
        return parts | {"association": self.relate(given["pairs"], words, *masks)}

    def read(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Words -> states in both directions, `[B, T, 2 W]`, and the last of each direction, `[B, 2 W]`."""
        mask = step_mask(x, lengths)
        back = reversal(x, None if mask is None else mask[..., 0].long())[..., None].expand(len(x), -1, -1)
        forwards, turned = self.forwards(x), self.backwards(x.take_along_dim(back, 1))
        last = torch.cat((last_step(forwards, lengths), last_step(turned, lengths)), -1)
        return torch.cat((forwards, turned.take_along_dim(back, 1)), -1), last

    def relate(self, pairs: Tensor, words: Tensor, real_words: Tensor | None, real_pairs: Tensor | None) -> Tensor:
        """The pairs as they look at the words, as one vector `[B, D]`."""
        scores = self.match(pairs) @ words.transpose(1, 2)
        if real_words is not None:
            scores = scores.masked_fill(real_words.transpose(1, 2) == 0, torch.finfo(scores.dtype).min)
        related = torch.tanh(self.relation(torch.cat((pairs, scores.softmax(-1) @ words), -1)))
        weights = self.weight(related)
        if real_pairs is not None:
            weights = weights.masked_fill(real_pairs == 0, torch.finfo(weights.dtype).min)
        return (weights.softmax(1) * related).sum(1)

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, classes]`; labels: 0 or 1, sarcastic `[B]`."""
        parts = self.features(**batch)
        contrast = (parts["private_text"], parts["private_vision"], parts["shared_text"] - parts["shared_vision"])
        joined = torch.cat((*contrast, parts["association"]), -1)
        logits = self.head2(self.dropout(F.relu(self.head1(joined))))
        output = Output(logits=logits, features=parts)
        if labels is None:
            return output
        apart = [
            (parts[f"shared_{name}"].T @ parts[f"private_{name}"]).square().sum() / len(logits) ** 2
            for name in self.shared
        ]
        losses = {
            "classification": classification_loss(logits, labels),
            "orthogonal": self.config.orthogonal * torch.stack(apart).sum(),
        }
        return output._replace(loss=total_loss(losses), losses=losses)
