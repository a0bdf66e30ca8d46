"""A picture (and a question) read by encoders, and a text decoder that cross-attends to what they made: BLIP, ALBEF.

    caption   pixel_values -> image -> source [N, S, D'];  prompt input_ids -> decoder -> head -> next token
    question  input_ids -> question encoder, source = image states -> source [B, T, D];  start id -> decoder -> answer

The decoder is a TextEncoder run causally with a cache; keys and values of the source are computed once.  An answer may
also be chosen from a list by likelihood (`rank`).
BLIP (arXiv 2201.12086), ALBEF's VQA (arXiv 2107.07651).
Traps, all as published: the prompt's first id is replaced by the start id and its last ([SEP]) is cut before writing;
in writing the padding of a question is read like its words, in `logits` it is masked; a padded prompt counts its
positions by the mask when writing, by place in `logits`.
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


Source = tuple[Tensor, MaskSpec | None]  # what is read, and which of it


@dataclass(frozen=True, kw_only=True)
class SpecialTokenIds:
    """Token ids that start (`bos`) and end (`sep`) a text, and fill short rows (`pad`)."""

    bos: int
    sep: int
    pad: int = 0


@dataclass(frozen=True, kw_only=True)
class AnswerRules:
    """What differs between the published question models.

    masked: padding of a question is not read when writing.  first_twice: ranking counts the first word twice (ALBEF).
    smoothing: label smoothing of the losses that rank (BLIP's 0.1).
    """

    masked: bool = False
    first_twice: bool = False
    smoothing: float = 0.0


class VisionEncoderDecoder(nn.Module):
    """`question` None: the decoder reads the picture and continues `input_ids`; else it answers them."""

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
        """What the decoder cross-attends to: `image [N, S, D']`, and `text [B, T, D]` of a question about it."""
        batch = known_inputs(batch)
        found = {"image": self.encode_image(batch)}
        if self.question is not None and "input_ids" in batch:
            found["text"] = self.encode_question(found["image"], batch)
        return found

    def forward(
        self,
        *,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        answer_weights: Tensor | None = None,
        **batch: Any,
    ) -> Output:
        """logits `[B, T, V]` of the prompt (`input_ids`), or of `decoder_input_ids` after a question.

        labels `[B, T]`: aligned with what the decoder reads, -100 = not learned.  answer_weights `[B]`: each answer is
        the sum over its tokens, counted by its weight.
        """
        batch = known_inputs(batch)
        found = {"image": self.encode_image(batch)}
        if self.question is None:
            logits = self.score(batch_ids(batch, "input_ids"), batch.get("attention_mask"), found["image"])
        else:
            found["text"] = self.encode_question(found["image"], batch)
            ids, mask = batch_ids(batch, "decoder_input_ids"), batch.get("decoder_attention_mask")
            logits = self.score(ids, mask, found["text"], batch.get("attention_mask"))
        if labels is None:
            return Output(logits=logits, features=found)
        loss = language_model_loss(logits, labels, smoothing=label_smoothing, answer_weights=answer_weights)
        return Output(logits=logits, features=found, loss=loss, losses={"language_model": loss})

    def score(
        self, input_ids: Tensor, attention_mask: Tensor | None, source: Tensor, source_mask: Tensor | None = None
    ) -> Tensor:
        """Causal logits `[B, T, V]` of a text given its source `[B, S, D']`."""
        mask = MaskSpec(attention_mask=attention_mask)
        seen = None if source_mask is None else MaskSpec(causal=False, attention_mask=source_mask)
        return self.compute_logits(
            self.decoder.run(self.decoder.embed(input_ids), mask, source=source, source_mask=seen)
        )

    def rank(self, source: Tensor, source_mask: Tensor | None, answers: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Scores of a list of answers `[A, T]` (start and end ids included) for each source, `[B, A]`.

        A score is the sum of the words' log-probabilities, under the model's `rules`.  Only the `keep` answers with the
        likeliest first word are scored, the others get -inf.
        """
        start = answers[:1, :1].expand(len(source), 1)
        first = self.score(start, None, source, source_mask)[:, 0].log_softmax(-1)
        best = first[:, answers[:, 1]].topk(min(keep, len(answers)), dim=1).indices
        scores = source.new_full((len(source), len(answers)), float("-inf"))
        for row, chosen in enumerate(best):
            seen = None if source_mask is None else source_mask[row : row + 1].expand(len(chosen), -1)
            logits = self.score(answers[chosen], mask[chosen], source[row : row + 1].expand(len(chosen), -1, -1), seen)
            labels = answers[chosen].masked_fill(mask[chosen] == 0, -100)[:, 1:]
            losses = F.cross_entropy(
                logits[:, :-1].transpose(1, 2), labels, reduction="none", label_smoothing=self.rules.smoothing
            )
            again = first[row, answers[chosen, 1]] if self.rules.first_twice else 0.0
            scores[row, chosen] = again - losses.sum(-1)
        return scores

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.decoder.embed_tokens.weight if self.tied else None)

    def encode_image(self, batch: Mapping[str, Any]) -> Tensor:
        resize = bool(batch.get("interpolate_pos_encoding", False))
        return self.image(batch_ids(batch, "pixel_values"), interpolate_pos_encoding=resize)

    def encode_question(self, image: Tensor, batch: Mapping[str, Any]) -> Tensor:
        assert self.question is not None
        mask = MaskSpec(causal=False, attention_mask=batch.get("attention_mask"))
        return self.question.run(self.question.embed(batch_ids(batch, "input_ids")), mask, source=image)


def batch_ids(batch: Mapping[str, Any], name: str) -> Tensor:
    """`batch[name]`; raises PromptError when it is not there."""
    if batch.get(name) is None:
        raise PromptError(f"VisionEncoderDecoder: expected {name}, found {sorted(batch)}")
    return batch[name]


def known_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(given) - set(_INPUTS)):
        raise ConfigError(f"VisionEncoderDecoder: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return given
