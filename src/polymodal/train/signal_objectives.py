"""Objectives of models that speak of pictures with signal tokens: GILL draws and finds them, MiniGPT-5 draws them.

    GILL
    captions behind pictures     -> next token
    captions, then a signal      -> next token up to the first of the signal; conditions near what the text encoder of a
                                    diffusion model says; vectors near those of the pictures
    MiniGPT-5
    conversations with signals   -> next token; the noise in latents of the pictures, seen through the conditions;
                                    conditions near what the text encoder says of captions

Of the table of tokens only the rows of new tokens learn; GILL's keep the mean length of the others.
GILL (arXiv 2305.17216), MiniGPT-5 (2310.02239), weights of noise by its share (min-SNR, 2303.09556).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.nn.losses import IGNORE, pair_loss
from polymodal.train.collator import Collator, Learner
from polymodal.train.objectives import Batch, Loss, Losses
from polymodal.train.signal_pairs import drawn_or_found

SIGNAL = ("signal_ids", "signal_mask", "signal_targets")
DRAWN = ("latents", "noise", "timesteps", "dropped", "signal_targets", "empty_target")


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

    def collator(self, learner: Learner) -> Collator:
        """Pictures with captions, and what a text encoder says of them."""
        return drawn_or_found(learner)


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
        self.rows.keep(model.backbone.embed_tokens.weight, level=True)
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


@dataclass(frozen=True, kw_only=True)
class SpokenPictures:
    """MiniGPT-5's losses.  text, noise, caption: their weights.  unguided: share of conditions of zeros.  clip: of the
    ratio of signal to noise, beyond which a step counts less; None: all count alike.

    Batch: conversations with labels; `latents` [k, C, h, w] of the pictures of its k signals, row by row; `noise`,
    `timesteps` [k] and `dropped` [k] (conditions of zeros), drawn here where a batch has none; with captions
    `signal_targets` [k, Q, E], what the text encoder says of them, and `empty_target` [1, Q, E], of an empty one.
    """

    name: ClassVar[str] = "spoken_pictures"
    text: float = 0.01
    noise: float = 1.0
    caption: float = 0.1
    unguided: float = 0.1
    clip: float | None = 5.0

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, SignalTokenLM) or "image" not in model.generators:
            raise ConfigError(f"objective: a SignalTokenLM with a generator is needed, not a {type(model).__name__}")
        return SpokenPicturesLoss(self, model)


class SpokenPicturesLoss(Loss):
    """See SpokenPictures."""

    def __init__(self, config: SpokenPictures, model: SignalTokenLM) -> None:
        super().__init__()
        self.config = config
        self.schedule = NoiseSchedule()
        new = (*model.signals["image"], *model.placeholders_in_vocabulary())
        self.tables = (LearnedRows(new), LearnedRows(new))

    def forward(self, model: Any, batch: Batch) -> Losses:
        """Raises ConfigError for other latents than the signals of the batch ask for."""
        for rows, table in zip(self.tables, (model.backbone.embed_tokens, model.backbone.lm_head), strict=True):
            rows.keep(table.weight)
        given = {name: value for name, value in batch.items() if name not in DRAWN}
        output = model(**given, return_logits=False)
        losses: Losses = {"text": self.config.text * output.losses["language_model"]}
        states = model.states_at(output.hidden, batch["input_ids"], "image")
        if states is None:
            return losses
        latents = batch.get("latents")
        if latents is None or len(latents) != len(states):
            found = "none" if latents is None else len(latents)
            raise ConfigError(f"objective: {len(states)} signals in the batch, but latents of {found} pictures")
        dropped = batch.get("dropped")
        dropped = torch.rand(len(states)) < self.config.unguided if dropped is None else dropped
        dropped = dropped.to(states.device)
        condition = model.projected("image", states.masked_fill(dropped[:, None, None], 0.0))
        losses["noise"] = self.config.noise * self.seen(model, latents, condition, batch)
        if (targets := batch.get("signal_targets")) is not None:
            wanted = torch.where(dropped[:, None, None], batch["empty_target"], targets)
            losses["caption"] = self.config.caption * F.mse_loss(condition.float(), wanted.float())
        return losses

    def seen(self, model: Any, latents: Tensor, condition: Tensor, batch: Batch) -> Tensor:
        """The error of the noise in latents, each time by its weight."""
        noise, times = batch.get("noise"), batch.get("timesteps")
        noise = torch.randn_like(latents) if noise is None else noise
        if times is None:
            times = torch.randint(self.schedule.trained, (len(latents),), device=latents.device)
        found = model.generators["image"](self.schedule.noisy(latents, noise, times), times, condition)
        errors = (found.float() - noise.float()).square().flatten(1).mean(1)
        if self.config.clip is not None:
            kept = self.schedule.kept.to(times.device)[times]
            ratio = kept / (1 - kept)
            errors = errors * ratio.clamp(max=self.config.clip) / ratio
        return errors.mean()


class LearnedRows:
    """A table of which some rows learn.  level: their lengths are the mean of the others'."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = list(rows)
        self._held: Tensor | None = None

    def keep(self, weight: Tensor, level: bool = False) -> None:
        """Call before each step."""
        if not weight.requires_grad:
            return
        learned = torch.zeros(len(weight), 1, dtype=torch.bool, device=weight.device)
        learned[self._rows] = True
        if self._held is not weight:
            weight.register_hook(lambda gradient: gradient * learned.to(gradient.device))
            self._held = weight
        if level:
            with torch.no_grad():
                lengths = weight.norm(dim=1, keepdim=True)
                weight.mul_(torch.where(learned, lengths[~learned].mean() / lengths.clamp(min=1e-12), 1.0))
