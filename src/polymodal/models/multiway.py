"""One stack for pictures, words and pairs (BEiT-3, arXiv 2208.10442; VL-BEiT, 2206.01127), and what is read off it.

    pixel_values, input_ids -> encoder -> states [B, P + T, D], the picture first
        first token -> norm, dense, tanh -> classes             answers to questions
        first tokens of picture and of text, of two pictures -> classes      statements about two pictures
        mean of the patches -> norm -> classes                   pictures alone
        text positions -> words [B, T, V]                        captions (`causal`), masked words
    pictures alone, texts alone -> first tokens -> joint space -> cosines    retrieval

Traps: the answer head reads the PICTURE's class token; captions are written by asking for a [MASK] behind the words so
far, nothing is shifted; joint vectors are not normalised in `features`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.beit3 import BEiT3Config
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.losses import classification_loss, pair_loss

Kind = Literal["answers", "pairs", "classes", "words"]
_INPUTS = ("pixel_values", "input_ids", "attention_mask", "bool_masked_pos")


@dataclass(frozen=True, kw_only=True)
class WritingIds:
    """Ids that captions begin and end with, of the token that stands for a hidden word, and of padding."""

    bos: int
    eos: int
    mask: int
    pad: int


@dataclass(frozen=True, kw_only=True)
class MultiwayConfig:
    """kind: which head.  outputs: classes, or the vocabulary of a word head.  causal: words see those before them.
    writing: ids of captions, None where none are written."""

    tower: BEiT3Config
    kind: Kind
    outputs: int
    causal: bool = False
    writing: WritingIds | None = None

    def build(self) -> "Multiway":
        return Multiway(self)


class Multiway(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(self, config: MultiwayConfig):
        super().__init__()
        self.config = config
        width, kind = config.tower.width, config.kind
        self.encoder = config.tower.build()
        self.pooler = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh()) if kind == "answers" else None
        )
        wide = {"answers": width, "pairs": 4 * width}.get(kind)
        head: nn.Module = nn.Linear(width, config.outputs)
        if wide is not None:
            layers = (
                nn.Linear(wide, 2 * width),
                nn.LayerNorm(2 * width),
                nn.GELU(),
                nn.Linear(2 * width, config.outputs),
            )
            head = nn.Sequential(*layers)
        self.norm = nn.LayerNorm({"pairs": 4 * width, "classes": width}[kind]) if kind in ("pairs", "classes") else None
        self.head = head
        self.writing_ids = config.writing

    @property
    def text_length(self) -> int:
        """Most ids of a text."""
        return self.config.tower.text_positions - 2

    def states(self, **batch: Any) -> Tensor:
        """States [B, P + T, D] of pictures, texts or pairs, each token seeing all others."""
        return self._run(_check_inputs(batch), False)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """States after the last block by modality: `image [B, P, D]`, `text [B, T, D]`."""
        inputs = _check_inputs(batch)
        return self._parted(self._run(inputs, self.config.causal), inputs)

    def words(self, states: Tensor) -> Tensor:
        """States of text -> logits [..., V]; raises ConfigError for a model without a word head."""
        if self.config.kind != "words":
            raise ConfigError("this model has no head for words")
        return self.head(states)

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits [B, classes], or [B, T, V] of a word head.

        labels: classes [B], scores [B, classes] of several right answers, or words [B, T] (-100 elsewhere).
        """
        inputs = _check_inputs(batch)
        kind = self.config.kind
        hidden = self._pairs(inputs) if kind == "pairs" else self._run(inputs, self.config.causal)
        parts = self._parted(hidden, inputs)
        if kind == "words":
            if "text" not in parts:
                raise PromptError("this model writes words: expected input_ids, found none")
            logits = self.head(parts["text"])
        elif kind == "answers":
            assert self.pooler is not None
            logits = self.head(self.pooler(hidden[:, 0]))
        else:
            logits = self.head(self.norm(self._joined(hidden) if kind == "pairs" else hidden[:, 1:].mean(1)))  # type: ignore[misc]
        loss = None if labels is None else classification_loss(logits, labels)
        name = "masked_words" if kind == "words" else "classification"
        return Output(
            logits=logits, hidden=hidden, features=parts, loss=loss, losses=None if loss is None else {name: loss}
        )

    def _pairs(self, inputs: Mapping[str, Any]) -> Tensor:
        """States [2 B, P + T, D] of each text with its first picture, then of each with its second."""
        pixels = inputs.get("pixel_values")
        if pixels is None or pixels.dim() != 5 or pixels.shape[1] != 2:
            found = "none" if pixels is None else list(pixels.shape)
            raise PromptError(f"this model takes two pictures a text, [B, 2, 3, H, W]; found {found}")
        twice = {name: torch.cat((value, value)) for name, value in inputs.items() if name != "pixel_values"}
        return self._run({**twice, "pixel_values": torch.cat((pixels[:, 0], pixels[:, 1]))}, False)

    def _joined(self, hidden: Tensor) -> Tensor:
        """First tokens of picture and text of both halves -> [B, 4 D]."""
        both = torch.cat((hidden[:, 0], hidden[:, self.config.tower.tokens]), -1)
        return torch.cat(both.chunk(2), -1)

    def _run(self, inputs: Mapping[str, Any], causal: bool) -> Tensor:
        return self.encoder(
            inputs.get("pixel_values"), inputs.get("input_ids"), inputs.get("attention_mask"),
            inputs.get("bool_masked_pos"), causal,
        )  # fmt: skip

    def _parted(self, hidden: Tensor, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        patches = self.config.tower.tokens if "pixel_values" in inputs else 0
        parts = {"image": hidden[:, :patches], "text": hidden[:, patches:]}
        return {name: x for name, x in parts.items() if x.shape[1]}


@dataclass(frozen=True, kw_only=True)
class MultiwayRetrievalConfig:
    tower: BEiT3Config

    def build(self) -> "MultiwayRetrieval":
        return MultiwayRetrieval(self)


class MultiwayRetrieval(nn.Module):
    """The stack as two encoders: pictures and texts apart -> logits [N, B], scaled cosines."""

    output_fields = frozenset({"logits", "embeddings"})
    logit_scale: nn.Parameter

    def __init__(self, config: MultiwayRetrievalConfig):
        super().__init__()
        self.config = config
        width = config.tower.width
        self.encoder = config.tower.build()
        self.image_proj = nn.Linear(width, width, bias=False)
        self.text_proj = nn.Linear(width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor([2.6592600]))

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Vectors [N, D] of pictures and [B, D] of texts, not normalised."""
        inputs, found = _check_inputs(batch), {}
        if "pixel_values" in inputs:
            found["image"] = self.image_proj(self.encoder(inputs["pixel_values"])[:, 0])
        if "input_ids" in inputs:
            text = self.encoder(None, inputs["input_ids"], inputs.get("attention_mask"))
            found["text"] = self.text_proj(text[:, 0])
        if not found:
            raise PromptError("retrieval: expected pixel_values or input_ids, found neither")
        return found

    def forward(self, *, return_loss: bool = False, **batch: Any) -> Output:
        """embeddings by modality; logits [N, B] where both are there.  return_loss: pair i is on the diagonal."""
        found = self.features(**batch)
        if len(found) < 2:
            if return_loss:
                raise PromptError(f"retrieval: a loss needs pixel_values and input_ids, found {list(found)}")
            return Output(embeddings=found)
        cosines = F.normalize(found["image"], dim=-1) @ F.normalize(found["text"], dim=-1).T
        logits = cosines * self.logit_scale.exp()
        loss = pair_loss(logits) if return_loss else None
        losses = None if loss is None else {"contrastive": loss}
        return Output(logits=logits, embeddings=found, loss=loss, losses=losses)


def _check_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without None values; raises ConfigError for unknown inputs."""
    inputs = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(inputs) - set(_INPUTS)):
        raise ConfigError(f"this model does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return inputs
