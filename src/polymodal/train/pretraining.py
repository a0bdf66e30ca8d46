"""Objectives of pretraining that join several losses: FLAVA, ViLT, BLIP-2's first stage.

    FLAVA   pairs: contrast + match + masked words and patches; pictures alone: masked patches; texts alone: words
    ViLT    masked words + match of half replaced pictures + distance of words and patches by optimal transport
    BLIP-2  contrast + match with hard negatives + captions written by the Q-Former

Heads that only training uses and no published model holds (ViLT's match, BLIP-2's words and temperature) are the loss's
own parameters: they train beside the model and a checkpoint saves them.
FLAVA (arXiv 2112.04482), ViLT (2102.03334), BLIP-2 (2301.12597).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.multimodal_encoder import MultimodalEncoder
from polymodal.models.qformer_retrieval import QFormerRetrieval
from polymodal.models.single_stream import SingleStream
from polymodal.nn.losses import (
    IGNORE,
    language_model_loss,
    masked_token_loss,
    match_loss,
    negatives,
    pair_loss,
)
from polymodal.nn.transport import transport_distance
from polymodal.train.collator import Collator, Learner, require_special
from polymodal.train.masked import masked_multimodal
from polymodal.train.objectives import Batch, Loss, Losses, bound_scale
from polymodal.train.pairs import CaptionedPairs, MomentumCollator, pair_processor, word_masking


@dataclass(frozen=True, kw_only=True)
class MaskedMultimodalModeling:
    """FLAVA's losses, each of weight 1, by what a batch holds.

    Pictures: pixel_values, bool_masked_pos, and codebook_pixel_values, which the model's codec turns into ids.  Texts:
    input_ids, input_ids_masked, attention_mask, mlm_labels.  Pairs bring both.
    """

    name: ClassVar[str] = "masked_multimodal_modeling"
    max_logit_scale: float = 100.0

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, MultimodalEncoder) or model.heads is None or model.codec is None:
            raise ConfigError("objective: masked multimodal modeling needs FLAVA's pretraining heads and its codec")
        return MaskedMultimodalModelingLoss(self.max_logit_scale)

    def collator(self, learner: Learner) -> Collator:
        """Pairs, pictures and texts, a data set of each."""
        if not isinstance(learner.module, MultimodalEncoder):
            raise ConfigError(f"it is for a MultimodalEncoder, not a {type(learner.module).__name__}")
        return masked_multimodal(learner, learner.module.grid)


class MaskedMultimodalModelingLoss(Loss):
    """See MaskedMultimodalModeling."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, model: Any, batch: Batch) -> Losses:
        bound_scale(model, self.largest)
        pictures, texts = batch.get("pixel_values") is not None, batch.get("input_ids") is not None
        tokens = self.tokens(model, batch) if pictures else None
        own = ("codebook_pixel_values", "mlm_labels")
        masked = {name: value for name, value in batch.items() if name not in own}
        if pictures and texts:
            return self.pairs(model, batch, masked, tokens)
        found = model.predictions(**masked)
        if tokens is not None:
            patches: Tensor = masked_token_loss(found["mim"][:, 1:], tokens)
            return {"masked_patches": patches}
        return {"masked_words": masked_token_loss(found["mlm"], batch["mlm_labels"])}

    def pairs(self, model: Any, batch: Batch, masked: dict[str, Any], tokens: Tensor | None) -> Losses:
        """Contrast of the whole inputs; match and masked words and patches of the masked ones."""
        assert tokens is not None
        plain = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask") if name in batch}
        logits = model(**plain).logits
        found = model.predictions(**masked)
        wrong = negatives(logits)
        other = model.predictions(**{**masked, "pixel_values": batch["pixel_values"][wrong]})["itm"]
        return {
            "contrastive": pair_loss(logits),
            "match": match_loss(torch.cat((found["itm"], other)), len(other)),
            "masked_patches": masked_token_loss(found["mmm_image"], tokens),
            "masked_words": masked_token_loss(found["mmm_text"], batch["mlm_labels"]),
        }

    def tokens(self, model: Any, batch: Batch) -> Tensor:
        """The codec's ids at hidden patches, -100 elsewhere, [N, P]."""
        hidden = batch["bool_masked_pos"].flatten(1)
        return model.image_tokens(batch["codebook_pixel_values"]).masked_fill(~hidden, IGNORE)


@dataclass(frozen=True, kw_only=True)
class WordPatchPretraining:
    """ViLT's losses.  Batch: input_ids, attention_mask, pixel_values, pixel_mask; masked_input_ids with `labels`.

    alignment_weight: of (distance of true pairs - distance of replaced ones) / pairs; half the pictures are replaced by
    another one of the batch.
    """

    name: ClassVar[str] = "word_patch_pretraining"
    alignment_weight: float = 0.1

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, SingleStream) or model.pooler is None or model.config.pooled:
            raise ConfigError("objective: word-patch pretraining needs a SingleStream with a pooler and a word head")
        return WordPatchPretrainingLoss(self.alignment_weight, model.config.text.width)

    def collator(self, learner: Learner) -> Collator:
        """Pictures with captions, whose words are hidden."""
        processor = pair_processor(learner)
        masking = word_masking(learner, learner.masked_words or 0.15)
        return MomentumCollator(processor=processor, longest=learner.max_length, masking=masking, groups=False)


class WordPatchPretrainingLoss(Loss):
    """See WordPatchPretraining; holds the match head."""

    def __init__(self, weight: float, width: int) -> None:
        super().__init__()
        self.weight = weight
        self.match = nn.Linear(width, 2)

    def forward(self, model: Any, batch: Batch) -> Losses:
        own = ("masked_input_ids", "labels")
        plain = {name: value for name, value in batch.items() if name not in own}
        words = model(**{**plain, "input_ids": batch["masked_input_ids"]}, labels=batch["labels"])
        return {**words.losses, **self.pairs(model, plain)}

    def pairs(self, model: Any, batch: dict[str, Any]) -> Losses:
        """Match and alignment of whole texts with their own or another picture."""
        count, length = batch["input_ids"].shape
        true = torch.randperm(count, device=batch["input_ids"].device) < (count + 1) // 2
        partner = torch.where(true, 0, 1) + torch.arange(count, device=true.device)
        seen = {name: batch[name][partner % count] for name in ("pixel_values", "pixel_mask") if name in batch}
        hidden, mask = model.encode(**(batch | seen))
        words, patches = mask[:, :length].bool(), mask[:, length:].bool()
        # Neither the class tokens nor the separator, which is a text's last, have a counterpart.
        ends = words.long().cumsum(1) == words.sum(1, keepdim=True)
        words = words & ~ends
        words[:, 0], patches[:, 0] = False, False
        distance = transport_distance(hidden[:, :length], hidden[:, length:], words, patches)
        sign = torch.where(true, 1.0, -1.0)
        return {
            "match": F.cross_entropy(self.match(model.pool(hidden)), true.long()),
            "word_patch": self.weight * (sign * distance).sum() / count,
        }


@dataclass(frozen=True, kw_only=True)
class ContrastMatchCaption:
    """BLIP-2's first stage, equal weights.  Batch: pixel_values, input_ids, attention_mask; the caption to write:
    decoder_input_ids, decoder_attention_mask, `labels` aligned with them.

    label_smoothing: of the contrast and of the caption.  temperature: where the learned one starts.
    """

    name: ClassVar[str] = "contrast_match_caption"
    label_smoothing: float = 0.1
    temperature: float = 0.07

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, QFormerRetrieval) or model.config.qformer.vocab_size is None:
            raise ConfigError("objective: contrast, match and caption need a Q-Former that reads texts and pictures")
        return ContrastMatchCaptionLoss(self, model)

    def collator(self, learner: Learner) -> Collator:
        """Pictures with captions, which are written too."""
        if not isinstance(learner.module, QFormerRetrieval):
            raise ConfigError("it trains the first stage's model, a Q-Former that reads texts and pictures")
        processor = pair_processor(learner)
        begin = require_special(processor.tokenizer, "[DEC]", "a caption that is written")
        skipped = learner.module.config.placeholders
        longest = None if learner.max_length is None else learner.max_length + skipped
        return CaptionedPairs(processor=processor, longest=longest, begin=begin, skipped=skipped)


class ContrastMatchCaptionLoss(Loss):
    """See ContrastMatchCaption; holds the temperature and the word head, whose matrix is the Q-Former's embedding."""

    def __init__(self, config: ContrastMatchCaption, model: QFormerRetrieval) -> None:
        super().__init__()
        shape = model.config.qformer
        self.smoothing = config.label_smoothing
        self.temperature = nn.Parameter(torch.tensor([config.temperature]))
        self.dense = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size or 0))

    def forward(self, model: Any, batch: Batch) -> Losses:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        image = model.image_states(batch["pixel_values"])
        found = model.vectors(image, ids, mask)
        logits = (found["image"] @ found["text"].T).amax(1) / self.temperature
        texts, images = negatives(logits), negatives(logits.T)
        matched = model.match_logits(
            torch.cat((image, image[images], image)),
            torch.cat((ids, ids, ids[texts])),
            torch.cat((mask, mask, mask[texts])),
        )
        states = model.caption_states(image, batch["decoder_input_ids"], batch.get("decoder_attention_mask"))
        words = model.word_logits(self.norm(F.gelu(self.dense(states)))) + self.bias
        return {
            "contrastive": pair_loss(logits, smoothing=self.smoothing),
            "match": match_loss(matched, len(ids)),
            "caption": language_model_loss(words, batch["labels"], smoothing=self.smoothing),
        }
