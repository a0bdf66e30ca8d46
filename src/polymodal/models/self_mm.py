"""Self-MM (arXiv 2102.04830): a score from three modalities together, and one from each alone.

    text ids [B, T] -> BERT -> first token [B, 768]                            ┐
    audio [B, Ta, 5]  -> LSTM -> state at the last real step -> linear [B, 16] ├-> concatenated -> head -> score
    vision [B, Tv, 20] -> LSTM -> state at the last real step -> linear [B, 32]┘   each -> head -> text, audio, vision

The heads of single modalities have no labels of their own in MOSI and MOSEI; training makes them (`train/affect.py`),
from the heads' first vectors, which are `Output.embeddings`.
Trap: lengths of aligned data are those of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder import BERT_KEYS, TextEncoderConfig
from polymodal.errors import PromptError
from polymodal.models.feature_inputs import checked
from polymodal.models.last_state import LAST_STATE_KEYS, LastState
from polymodal.models.output import Output
from polymodal.models.score_head import SCORES, ScoreHead, head_keys, require_names
from polymodal.nn.losses import regression_loss

HEARD = ("audio", "vision")
IDS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, kw_only=True)
class SelfMMConfig:
    """features: input width of audio and vision; states, outputs: of their LSTMs and linears; heads, dropout: by head.

    aligned: audio and vision have a step for each token, and so the text's lengths.
    """

    text: TextEncoderConfig
    features: Mapping[str, int]
    states: Mapping[str, int]
    outputs: Mapping[str, int]
    heads: Mapping[str, int]
    dropout: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SCORES, 0.0))
    aligned: bool = False

    def __post_init__(self) -> None:
        for name in ("features", "states", "outputs"):
            require_names(f"Self-MM: {name}", getattr(self, name), HEARD)
        for name in ("heads", "dropout"):
            require_names(f"Self-MM: {name}", getattr(self, name), tuple(SCORES))

    def build(self) -> SelfMM:
        return SelfMM(self)


class SelfMM(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features", "embeddings", "predictions"})

    def __init__(self, config: SelfMMConfig) -> None:
        super().__init__()
        self.config = config
        self.text = config.text.build()
        for name in HEARD:
            self.add_module(name, LastState(config.features[name], config.states[name], config.outputs[name]))
        widths = {"text": config.text.width, **config.outputs}
        widths["fusion"] = sum(widths.values())
        self.heads = nn.ModuleDict(
            {name: ScoreHead(widths[name], config.heads[name], dropout=config.dropout[name]) for name in SCORES}
        )

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """A vector of each modality: text `[B, 768]`, audio, vision."""
        if batch.get("input_ids") is None:
            raise PromptError("SelfMM: expected input_ids, audio, vision, found no input_ids (MMSA's text_bert)")
        given = checked("SelfMM", batch, self.config.features, IDS)
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        lengths = {name: batch.get(f"{name}_lengths") for name in HEARD}
        if self.config.aligned:
            steps = torch.full((len(ids),), ids.shape[1]) if mask is None else mask.sum(1).long()
            lengths = dict.fromkeys(HEARD, steps)
        hidden = self.text(ids, mask, batch.get("token_type_ids"))
        encoded = {name: self.get_submodule(name)(given[name], lengths[name]) for name in HEARD}
        return {"text": hidden[:, 0], **encoded}

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, 1]`, the score; predictions: "score", "text", "audio", "vision", each `[B]`; embeddings: the
        heads' first vectors.  labels: scores `[B]`, of all modalities together."""
        parts = self.features(**batch)
        joint = torch.cat([parts["text"], parts["audio"], parts["vision"]], 1)
        heads: dict[str, Any] = dict(self.heads.items())
        vectors = {name: head.vector(joint if name == "fusion" else parts[name]) for name, head in heads.items()}
        scores = {name: heads[name].score(vector) for name, vector in vectors.items()}
        output = Output(
            logits=scores["fusion"],
            hidden=joint,
            features=parts,
            embeddings=vectors,
            predictions={SCORES[name]: score[:, 0] for name, score in scores.items()},
        )
        if labels is None:
            return output
        loss = regression_loss(scores["fusion"][:, 0], labels.reshape(-1))
        return output._replace(loss=loss, losses={"score": loss})


OFFICIAL_KEYS = (
    BERT_KEYS.prefixed("text_model.model.", "text.")
    + LAST_STATE_KEYS.prefixed("audio_model.", "audio.")
    + LAST_STATE_KEYS.prefixed("video_model.", "vision.")
    + head_keys(tuple(SCORES))
)
"""The names of MMSA's class -> ours."""
