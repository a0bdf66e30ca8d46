"""Captioning and VQA: an image encoder, a question encoder, and a text decoder with cross-attention: BLIP, ALBEF.

    caption   pixel_values -> image -> source [N, S, D'];  prompt input_ids -> decoder -> head -> next token
    question  input_ids -> question encoder, source = image states -> source [B, T, D];  start id -> decoder -> answer

The decoder is a causal TextEncoder with a cache; keys and values of the source are computed once.  An answer can also
be chosen from a list by likelihood (`rank`).
BLIP (arXiv 2201.12086), ALBEF's VQA (arXiv 2107.07651).
Traps, all as published: for generation, the first id of the prompt is replaced by the start id and the last one ([SEP])
is removed; generation attends to the padding of a question, `logits` masks it; positions of a padded prompt follow the
mask in generation, the column in `logits`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.encoder import TextEncoderConfig, TokenHeadConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.losses import language_model_loss
from polymodal.nn.mask import MaskSpec

_INPUTS = (
    "pixel_values",
    "input_ids",
    "attention_mask",
    "decoder_input_ids",
    "decoder_attention_mask",
    "interpolate_pos_encoding",
)


Source = tuple[Tensor, MaskSpec | None]  # states for cross-attention and their mask


@dataclass(frozen=True, kw_only=True)
class SpecialTokenIds:
    """Token ids: start (`bos`) and end (`sep`) of a text, padding (`pad`)."""

    bos: int
    sep: int
    pad: int = 0


@dataclass(frozen=True, kw_only=True)
class AnswerRules:
    """Differences between the published VQA models.

    mask_padding: generation masks the padding of a question.  count_first_twice: ranking counts the first word twice
    (ALBEF).  smoothing: label smoothing of the ranking losses (BLIP: 0.1).
    """

    mask_padding: bool = False
    count_first_twice: bool = False
    smoothing: float = 0.0


class VisionEncoderDecoder(nn.Module):
    """`question` None: the decoder captions the image, continuing `input_ids`; else it answers the question in them."""

    output_fields = frozenset({"logits", "features"})

    def __init__(
        self,
        image: nn.Module,
        decoder: TextEncoderConfig,
        head: TokenHeadConfig,
        *,
        ids: SpecialTokenIds,
        question: TextEncoderConfig | None = None,
        rules: AnswerRules = AnswerRules(),
    ) -> None:
        super().__init__()
        self.image = image
        self.question = None if question is None else question.build()
        self.decoder = decoder.build()
        self.head = head.build()
        self.tied = head.tied
        self.ids = ids
        self.rules = rules

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """States for cross-attention: `image [N, S, D']`, and with a question `text [B, T, D]`."""
        batch = check_inputs(batch)
        features = {"image": self.encode_image(batch)}
        if self.question is not None and "input_ids" in batch:
            features["text"] = self.encode_question(features["image"], batch)
        return features

    def forward(
        self,
        *,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        answer_weights: Tensor | None = None,
        **batch: Any,
    ) -> Output:
        """logits `[B, T, V]` of the prompt (`input_ids`), or of `decoder_input_ids` after a question.

        labels `[B, T]`: aligned with the decoder's input, -100 = ignored.  answer_weights `[B]`: weighted sum of the
        token losses of each answer.
        """
        batch = check_inputs(batch)
        features = {"image": self.encode_image(batch)}
        if self.question is None:
            logits = self.score(required_input(batch, "input_ids"), batch.get("attention_mask"), features["image"])
        else:
            features["text"] = self.encode_question(features["image"], batch)
            ids, mask = required_input(batch, "decoder_input_ids"), batch.get("decoder_attention_mask")
            logits = self.score(ids, mask, features["text"], batch.get("attention_mask"))
        if labels is None:
            return Output(logits=logits, features=features)
        loss = language_model_loss(logits, labels, smoothing=label_smoothing, answer_weights=answer_weights)
        return Output(logits=logits, features=features, loss=loss, losses={"language_model": loss})

    def score(
        self, input_ids: Tensor, attention_mask: Tensor | None, source: Tensor, source_mask: Tensor | None = None
    ) -> Tensor:
        """Causal logits `[B, T, V]` of a text, given its source `[B, S, D']`."""
        mask = MaskSpec(attention_mask=attention_mask)
        source_spec = None if source_mask is None else MaskSpec(causal=False, attention_mask=source_mask)
        return self.compute_logits(
            self.decoder.run(self.decoder.embed(input_ids), mask, source=source, source_mask=source_spec)
        )

    def rank(self, source: Tensor, source_mask: Tensor | None, answers: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Scores `[B, A]` of candidate answers `[A, T]` (start and end ids included) for each source.

        A score is the sum of token log-probabilities, modified by the model's `rules`.  Only the `keep` answers with
        the most likely first words are scored; the others get -inf.
        """
        start = answers[:1, :1].expand(len(source), 1)
        first = self.score(start, None, source, source_mask)[:, 0].log_softmax(-1)
        top = first[:, answers[:, 1]].topk(min(keep, len(answers)), dim=1).indices
        scores = source.new_full((len(source), len(answers)), float("-inf"))
        for row, indices in enumerate(top):
            sources = source[row : row + 1].expand(len(indices), -1, -1)
            source_masks = None if source_mask is None else source_mask[row : row + 1].expand(len(indices), -1)
            logits = self.score(answers[indices], mask[indices], sources, source_masks)
            labels = answers[indices].masked_fill(mask[indices] == 0, -100)[:, 1:]
            losses = F.cross_entropy(
                logits[:, :-1].transpose(1, 2), labels, reduction="none", label_smoothing=self.rules.smoothing
            )
            bonus = first[row, answers[indices, 1]] if self.rules.count_first_twice else 0.0
            scores[row, indices] = bonus - losses.sum(-1)
        return scores

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.decoder.embed_tokens.weight if self.tied else None)

    def encode_image(self, batch: Mapping[str, Any]) -> Tensor:
        resize = bool(batch.get("interpolate_pos_encoding", False))
        return self.image(required_input(batch, "pixel_values"), interpolate_pos_encoding=resize)

    def encode_question(self, image: Tensor, batch: Mapping[str, Any]) -> Tensor:
        assert self.question is not None
        mask = MaskSpec(causal=False, attention_mask=batch.get("attention_mask"))
        return self.question.run(self.question.embed(required_input(batch, "input_ids")), mask, source=image)


def required_input(batch: Mapping[str, Any], name: str) -> Tensor:
    """`batch[name]`; raises PromptError if it is missing."""
    if batch.get(name) is None:
        raise PromptError(f"VisionEncoderDecoder: expected {name}, found {sorted(batch)}")
    return batch[name]


def check_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without None values; raises ConfigError for unknown inputs."""
    inputs = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(inputs) - set(_INPUTS)):
        raise ConfigError(f"VisionEncoderDecoder: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return inputs
