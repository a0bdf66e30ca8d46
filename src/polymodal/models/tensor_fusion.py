"""Scores from products of modalities: TFN (arXiv 1707.07250), LMF (1806.00064), and MTFN of CH-SIMS with its own heads.

    text [B, T, Ft] -> LSTM, last state, linear [B, t]       ┐  1 in front of each ->
    audio [B, T, Fa] -> mean, batch norm, MLP [B, a]         ├> TFN: outer product, (a+1)(v+1)(t+1) numbers -> head
    vision [B, T, Fv] -> mean, batch norm, MLP [B, v]        ┘  LMF: product of `rank` linears of each, weighted sum
    TFN's score is sigmoid * 6 - 3;  MTFN: text, audio and vision have a head each, without those bounds

Traps: MMSA's copy averages audio and vision over its padding, and its LSTM runs over it: `seq_lens` says to which
lengths sequences are padded with zeros, None: real steps alone count.  The outer product is audio x vision,
then x text.  A sequence of one step is taken for a mean already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.feature_inputs import checked, mean_over_time, padded
from polymodal.models.last_state import LAST_STATE_KEYS, LastState
from polymodal.models.output import Output
from polymodal.models.score_head import SCORES, ScoreHead, head_keys, require_names
from polymodal.nn.losses import regression_loss
from polymodal.weights.keytable import KeyTable, Row, rename

MODALITIES = ("text", "audio", "vision")


@dataclass(frozen=True, kw_only=True)
class TensorFusionConfig:
    """features, hidden: widths by modality.  text_out: of the text's vector.  heads: width of the fusion's head, and of
    the modalities' own where they have some; empty with `rank` (LMF).  dropout: by modality, and of each head.

    seq_lens: to how many steps sequences are padded, by modality; see the module's traps.
    """

    features: Mapping[str, int]
    hidden: Mapping[str, int]
    text_out: int
    heads: Mapping[str, int] = field(default_factory=dict)
    rank: int = 0
    dropout: Mapping[str, float] = field(default_factory=dict)
    seq_lens: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("features", "hidden"):
            require_names(f"tensor fusion: {name}", getattr(self, name), MODALITIES)
        allowed = ((),) if self.rank else (("fusion",), tuple(SCORES))
        if tuple(self.heads) not in allowed:
            raise ConfigError(
                f"tensor fusion: heads must be fusion alone or {', '.join(SCORES)}, none with a rank; found "
                f"{', '.join(self.heads) or 'none'} with rank {self.rank}"
            )
        if unknown := sorted(set(self.seq_lens) - set(MODALITIES)):
            raise ConfigError(f"tensor fusion: seq_lens names {unknown[0]!r}; expected {', '.join(MODALITIES)}")

    @property
    def outputs(self) -> dict[str, int]:
        """Width of each modality's vector."""
        return {"text": self.text_out, "audio": self.hidden["audio"], "vision": self.hidden["vision"]}

    def build(self) -> TensorFusion:
        return TensorFusion(self)


class MeanMLP(nn.Module):
    """`[B, F] -> [B, H]`: batch norm, dropout, three linears with ReLU."""

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_width)
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(in_width, width)
        self.linear2 = nn.Linear(width, width)
        self.linear3 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear1(self.dropout(self.norm(x))))
        return F.relu(self.linear3(F.relu(self.linear2(x))))


class LowRankProduct(nn.Module):
    """Vectors with a 1 in front -> score `[B, 1]`: the product over modalities, summed over `rank` by weights."""

    def __init__(self, widths: Mapping[str, int], rank: int) -> None:
        super().__init__()
        self.factors = nn.ParameterDict({name: torch.empty(rank, width + 1, 1) for name, width in widths.items()})
        self.weights = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(1, 1))
        for parameter in (*self.factors.values(), self.weights):
            nn.init.xavier_normal_(parameter)

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        product = torch.stack([torch.matmul(vectors[name], factor) for name, factor in self.factors.items()]).prod(0)
        return product[..., 0].T @ self.weights.T + self.bias


class TensorFusion(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "features", "predictions"})

    def __init__(self, config: TensorFusionConfig) -> None:
        super().__init__()
        self.config = config
        dropout = {name: config.dropout.get(name, 0.0) for name in (*MODALITIES, *(f"{x}_head" for x in SCORES))}
        self.text = LastState(config.features["text"], config.hidden["text"], config.text_out)
        for name in ("audio", "vision"):
            self.add_module(name, MeanMLP(config.features[name], config.hidden[name], dropout[name]))
        widths = config.outputs
        self.low_rank = LowRankProduct(widths, config.rank) if config.rank else None
        widths["fusion"] = (widths["text"] + 1) * (widths["audio"] + 1) * (widths["vision"] + 1)
        self.heads = nn.ModuleDict(
            {name: ScoreHead(widths[name], width, dropout=dropout[f"{name}_head"])
             for name, width in config.heads.items()}
        )  # fmt: skip
        self.range = None if config.rank else nn.Parameter(torch.full((1,), 6.0), requires_grad=False)
        self.shift = None if config.rank else nn.Parameter(torch.full((1,), -3.0), requires_grad=False)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """A vector of each modality: text `[B, t]`, audio `[B, a]`, vision `[B, v]`."""
        given = checked("TensorFusion", batch, self.config.features)
        lengths, steps = {name: batch.get(f"{name}_lengths") for name in MODALITIES}, self.config.seq_lens
        fixed = steps.get("text")
        text = padded(given["text"], lengths["text"], fixed)
        encoded = {"text": self.text(text, lengths["text"] if fixed is None else None)}
        for name in ("audio", "vision"):
            x = given[name]
            if name in steps and x.shape[1] > 1:
                mean = padded(x, lengths[name], steps[name]).mean(1)
            else:
                mean = mean_over_time(x, lengths[name])
            encoded[name] = self.get_submodule(name)(mean)
        return encoded

    def joint(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The outer product of audio, vision and text, each behind a 1, `[B, (a+1)(v+1)(t+1)]`."""
        text, audio, vision = (behind_one(parts[name]) for name in MODALITIES)
        return torch.einsum("ba,bv,bt->bavt", audio, vision, text).flatten(1)

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, 1]`, the score; predictions: "score", and "text", "audio", "vision" with heads of their own.

        labels: scores `[B]` of all modalities together.
        """
        parts = self.features(**batch)
        if self.low_rank is not None:
            score = self.low_rank({name: behind_one(x) for name, x in parts.items()})
        else:
            assert self.range is not None and self.shift is not None
            score = torch.sigmoid(self.heads["fusion"](self.joint(parts))) * self.range + self.shift
        own = {SCORES[name]: head(parts[name])[:, 0] for name, head in self.heads.items() if name != "fusion"}
        output = Output(logits=score, features=parts, predictions={"score": score[:, 0], **own})
        if labels is None:
            return output
        loss = regression_loss(score[:, 0], labels.reshape(-1))
        return output._replace(loss=loss, losses={"score": loss})


def behind_one(x: Tensor) -> Tensor:
    """`[B, D] -> [B, 1 + D]`, a 1 in front."""
    return F.pad(x, (1, 0), value=1.0)


def official_keys(config: TensorFusionConfig) -> KeyTable:
    """The names of MMSA's TFN, LMF and MTFN -> ours."""
    keys = LAST_STATE_KEYS.prefixed("text_subnet.", "text.")
    rows: list[Row] = []
    for source, target in (("audio_subnet", "audio"), ("video_subnet", "vision")):
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        rows += [rename(f"{source}.norm.{leaf}", f"{target}.norm.{leaf}") for leaf in norm]
        rows += [rename(f"{source}.linear_{layer}.{leaf}", f"{target}.linear{layer}.{leaf}")
                 for layer in "123" for leaf in ("weight", "bias")]  # fmt: skip
    if config.rank:
        factors = {"text": "text", "audio": "audio", "vision": "video"}
        rows += [rename(f"{source}_factor", f"low_rank.factors.{name}") for name, source in factors.items()]
        rows += [rename("fusion_weights", "low_rank.weights"), rename("fusion_bias", "low_rank.bias")]
    else:
        rows += [rename("output_range", "range"), rename("output_shift", "shift")]
    return keys + KeyTable(tuple(rows)) + head_keys(tuple(config.heads))
