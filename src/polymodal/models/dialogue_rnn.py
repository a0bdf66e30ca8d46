"""DialogueRNN (arXiv 1811.00405): an emotion for each utterance, from what was said, by whom, and how everyone feels.

    utterance u [B, F], its speaker's state q
    global   g = GRU([u ; q of the speaker before], g before)
    context  c = attention of u over all g before, 0 at the first utterance
    party    q of the speaker = GRU([u ; c], q);  listeners keep theirs, or GRU([u ; q of the speaker], q)
    emotion  e = GRU(q of the speaker, e before)
    in both directions -> [B, T, 2 E] -> attention of each utterance over all -> linear, ReLU -> linear -> logits

Traps: g reads the speaker's state before this utterance, e after it; the second direction reads each dialogue from its
own end, so rows must say their lengths (`attention_mask`); padding lies at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.feature_inputs import checked
from polymodal.models.output import Output
from polymodal.nn.losses import classification_loss
from polymodal.weights.keytable import KeyTable, Row, rename

ATTENTION = ("general", "general2", "simple")
BESIDE = ("speakers", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class DialogueRNNConfig:
    """features: width by modality, side by side in this order.  common, party, emotion: widths of the three states.

    parties: how many may speak.  attention: over earlier utterances, "general" (a linear of u), "general2" (with bias)
    or "simple" (a weight of g alone).  active_listeners: those who do not speak have a GRU of their own.
    """

    features: Mapping[str, int]
    classes: int
    common: int = 500
    party: int = 500
    emotion: int = 300
    hidden: int = 300
    parties: int = 2
    attention: str = "general"
    active_listeners: bool = False
    state_dropout: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not self.features:
            raise ConfigError("DialogueRNN: features must name one modality at least")
        if self.attention not in ATTENTION:
            raise ConfigError(f"DialogueRNN: attention {self.attention!r}; expected one of {', '.join(ATTENTION)}")

    @property
    def width(self) -> int:
        return sum(self.features.values())

    def build(self) -> DialogueRNN:
        return DialogueRNN(self)


class DialogueCell(nn.Module):
    """One direction: `u [B, T, F]`, speakers `[B, T]` -> emotions `[B, T, E]`."""

    def __init__(self, config: DialogueRNNConfig) -> None:
        super().__init__()
        self.config = config
        width, party = config.width, config.party
        self.common = nn.GRUCell(width + party, config.common)
        self.speaker = nn.GRUCell(width + config.common, party)
        self.emotion = nn.GRUCell(party, config.emotion)
        self.listener = nn.GRUCell(width + party, party) if config.active_listeners else None
        simple = config.attention == "simple"
        self.attention = (
            nn.Linear(config.common, 1, bias=False)
            if simple
            else nn.Linear(width, config.common, bias=config.attention == "general2")
        )
        self.dropout = nn.Dropout(config.state_dropout)

    def forward(self, u: Tensor, speakers: Tensor) -> Tensor:
        batch, rows = len(u), torch.arange(len(u), device=u.device)
        common = u.new_zeros(batch, self.config.common)
        parties = u.new_zeros(batch, self.config.parties, self.config.party)
        emotion = u.new_zeros(batch, self.config.emotion)
        history: list[Tensor] = []
        emotions = []
        for step in range(u.shape[1]):
            said, who = u[:, step], speakers[:, step]
            before = parties[rows, who]
            context = self.context(history, said)
            common = self.dropout(self.common(torch.cat((said, before), 1), common))
            spoken = self.dropout(self.speaker(torch.cat((said, context), 1), before))
            parties = self.heard(said, spoken, parties).index_put((rows, who), spoken)
            emotion = self.dropout(self.emotion(spoken, emotion))
            history.append(common)
            emotions.append(emotion)
        return torch.stack(emotions, 1)

    def context(self, history: list[Tensor], said: Tensor) -> Tensor:
        """What was common before, as the utterance attends to it, `[B, G]`."""
        if not history:
            return said.new_zeros(len(said), self.config.common)
        past = torch.stack(history, 1)
        if self.config.attention == "simple":
            scores = self.attention(past)[..., 0]
        else:
            scores = (past @ self.attention(said)[..., None])[..., 0]
        return (scores.softmax(1)[:, None] @ past)[:, 0]

    def heard(self, said: Tensor, spoken: Tensor, parties: Tensor) -> Tensor:
        """The states of all after an utterance, as if nobody had spoken it, `[B, P, D]`."""
        if self.listener is None:
            return parties
        count = parties.shape[1]
        told = torch.cat((said, spoken), 1)[:, None].expand(-1, count, -1).flatten(0, 1)
        return self.dropout(self.listener(told, parties.flatten(0, 1))).unflatten(0, (-1, count))


class DialogueRNN(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(self, config: DialogueRNNConfig) -> None:
        super().__init__()
        self.config = config
        self.forwards = DialogueCell(config)
        self.backwards = DialogueCell(config)
        width = 2 * config.emotion
        self.attention = nn.Linear(width, width)
        self.linear = nn.Linear(width, 2 * config.hidden)
        self.head = nn.Linear(2 * config.hidden, config.classes)
        self.emotion_dropout = nn.Dropout(config.dropout + 0.15)
        self.dropout = nn.Dropout(config.dropout)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """The utterances' features, by modality, `[B, T, F]`."""
        return checked("DialogueRNN", batch, self.config.features, BESIDE)

    def speakers(self, batch: Mapping[str, Any], shape: torch.Size) -> Tensor:
        """int64 `[B, T]`.  Raises PromptError for speakers that are missing or too many."""
        found = batch.get("speakers")
        if found is None or found.shape != shape:
            said = "none" if found is None else list(found.shape)
            raise PromptError(f"DialogueRNN: speakers must be [B, T] = {list(shape)}, found {said}")
        if found.device.type == "cpu" and not bool(((found >= 0) & (found < self.config.parties)).all()):
            most, last = self.config.parties, int(found.max())
            raise PromptError(f"DialogueRNN: {most} may speak; speakers must be 0 to {most - 1}, found {last}")
        return found

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, T, classes]`; labels: classes `[B, T]`, -100 at padding."""
        parts = self.features(**batch)
        u = torch.cat([parts[name] for name in self.config.features], -1)
        speakers, mask = self.speakers(batch, u.shape[:2]), batch.get("attention_mask")
        back = reversal(u, mask)
        forwards = self.forwards(u, speakers)
        turned = self.backwards(u.take_along_dim(back[..., None], 1), speakers.take_along_dim(back, 1))
        backwards = turned.take_along_dim(back[..., None], 1)
        hidden = torch.cat((self.emotion_dropout(forwards), self.emotion_dropout(backwards)), -1)
        scores = self.attention(hidden) @ hidden.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, torch.finfo(scores.dtype).min)
        attended = scores.softmax(-1) @ hidden
        logits = self.head(self.dropout(F.relu(self.linear(attended))))
        output = Output(logits=logits, hidden=attended, features=parts)
        if labels is None:
            return output
        loss = classification_loss(logits, labels)
        return output._replace(loss=loss, losses={"classification": loss})


def reversal(u: Tensor, mask: Tensor | None) -> Tensor:
    """Which utterance stands where when each row is read from its own end, int64 `[B, T]`; padding stays."""
    steps = torch.arange(u.shape[1], device=u.device)[None]
    lengths = torch.full((len(u), 1), u.shape[1], device=u.device) if mask is None else mask.sum(1, keepdim=True)
    return torch.where(steps < lengths, lengths - 1 - steps, steps)


def official_keys(config: DialogueRNNConfig) -> KeyTable:
    """The names of conv-emotion's BiModel -> ours."""
    cells = {"g_cell": "common", "p_cell": "speaker", "e_cell": "emotion"}
    if config.active_listeners:
        cells["l_cell"] = "listener"
    rows: list[Row] = []
    for source, target in (("dialog_rnn_f", "forwards"), ("dialog_rnn_r", "backwards")):
        for cell, name in cells.items():
            for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                rows.append(rename(f"{source}.dialogue_cell.{cell}.{leaf}", f"{target}.{name}.{leaf}"))
        inner = "scalar" if config.attention == "simple" else "transform"
        for leaf in ("weight", "bias") if config.attention == "general2" else ("weight",):
            rows.append(rename(f"{source}.dialogue_cell.attention.{inner}.{leaf}", f"{target}.attention.{leaf}"))
    for source, target in (("matchatt.transform", "attention"), ("linear", "linear"), ("smax_fc", "head")):
        rows += [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]
    return KeyTable(tuple(rows))
