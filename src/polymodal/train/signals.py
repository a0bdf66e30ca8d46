"""Objectives of models that speak of pictures with signal tokens: GILL, which draws and finds them.

    captions behind pictures         -> next token
    captions, then a signal          -> next token up to the first of the signal; conditions near what the text encoder
                                        of a diffusion model says; vectors near those of the pictures

Of the table of tokens only the rows of the signal learn, and keep the mean length of the others (arXiv 2305.17216).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.nn.losses import IGNORE, pair_loss
from polymodal.train.objectives import Batch, Loss, Losses

SIGNAL = ("signal_ids", "signal_mask", "signal_targets")


@dataclass(frozen=True, kw_only=True)
class DrawOrFind:
    """GILL's losses.  caption, signal, distance, contrast: their weights.

    Batch: a picture with its caption in each row, with labels; `signal_ids` and `signal_mask` [N, T]: the same captions
    without pictures, a signal behind each; `signal_targets` [N, Q, E]: what the text encoder says of each.
    """

    name: ClassVar[str] = "draw_or_find"
    caption: float = 1.0
    signal: float = 1.0
    distance: float = 1.0
    contrast: float = 1.0

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, SignalTokenLM) or model.retrieval is None:
            raise ConfigError(f"objective: a SignalTokenLM that finds pictures is needed, not a {type(model).__name__}")
        return DrawOrFindLoss(self, model)


class DrawOrFindLoss(Loss):
    """See DrawOrFind."""

    def __init__(self, config: DrawOrFind, model: SignalTokenLM) -> None:
        super().__init__()
        self.config = config
        self.signal = model.signals["image"]
        self.rows = LearnedRows(self.signal)

    def forward(self, model: Any, batch: Batch) -> Losses:
        """Raises ConfigError for a batch without captions that end in signals."""
        if missing := [name for name in SIGNAL if batch.get(name) is None]:
            raise ConfigError(f"objective: draw_or_find needs {', '.join(missing)} in the batch")
        self.rows.keep(model.backbone.embed_tokens.weight)
        given = {name: value for name, value in batch.items() if name not in SIGNAL}
        caption = model(**given, return_logits=False).losses["language_model"]
        ids, mask, targets = (batch[name] for name in SIGNAL)
        spoken = model(input_ids=ids, attention_mask=mask, labels=self.labels(ids, mask), return_logits=False)
        found = model.conditions_at(spoken.hidden, ids)["image"]
        if found.shape != targets.shape:
            shapes = f"{list(targets.shape)}, the signals {list(found.shape)}"
            raise ConfigError(f"objective: signal_targets are {shapes}")
        scores = model.similarities(batch["pixel_values"], spoken.predictions["retrieval"])
        distance = (found.float() - targets.float()).square().sum(-1).sqrt().mean()
        return {
            "caption": self.config.caption * caption,
            "signal": self.config.signal * spoken.losses["language_model"],
            "distance": self.config.distance * distance,
            "contrast": self.config.contrast * pair_loss(scores),
        }

    def labels(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Captions and the first token of their signals."""
        later = torch.isin(ids, torch.tensor(self.signal[1:], device=ids.device))
        return ids.masked_fill((mask == 0) | later, IGNORE)


class LearnedRows:
    """A table of which some rows learn, whose lengths are the mean of the others'."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = list(rows)
        self._held: Tensor | None = None

    def keep(self, weight: Tensor) -> None:
        """Call before each step."""
        if not weight.requires_grad:
            return
        learned = torch.zeros(len(weight), 1, dtype=torch.bool, device=weight.device)
        learned[self._rows] = True
        if self._held is not weight:
            weight.register_hook(lambda gradient: gradient * learned.to(gradient.device))
            self._held = weight
        with torch.no_grad():
            lengths = weight.norm(dim=1, keepdim=True)
            factors = torch.where(learned, lengths[~learned].mean() / lengths.clamp(min=1e-12), 1.0)
            weight.mul_(factors)
