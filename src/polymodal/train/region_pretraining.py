"""Objectives of pretraining on texts and the regions of pictures: ViLBERT, LXMERT, UNITER.

    RegionPretraining    hidden words and hidden regions in one pass, and whether they belong together (ViLBERT, LXMERT)
    ConditionalMasking   hidden words of whole pictures, hidden regions of whole texts, a match of whole pairs with the
                         distance of words and regions by optimal transport: a pass each (UNITER)

Batch: the model's own inputs, and as far as they are there
    masked_input_ids, labels [B, T]       hidden words, and their ids (-100 elsewhere)
    masked_regions bool [B, R]            regions that are asked for; their features become zero, or
    masked_visual_feats [B, R, F]         what the collator made of them (some stay as they were in ViLBERT and LXMERT)
    region_classes [B, R, C]              what the detector said of a region, as probabilities (KL divergence)
    region_labels {head: int [B, R]}, region_confidence {head: [B, R]}      objects and attributes of every region,
                                          hidden or not, as sure as the detector was (LXMERT)
    matched [B]                           1: the text belongs to the picture
    answer_labels [B]                     of questions, -100 elsewhere (LXMERT)
Features themselves are asked for where the model has a head "features".
ViLBERT (arXiv 1908.02265), LXMERT (1908.07490), UNITER (1909.11740).
Traps: the match of ViLBERT counts class 0 as yes; hidden regions of UNITER are marked by a vector of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.region_text import RegionText
from polymodal.nn.losses import IGNORE, masked_token_loss
from polymodal.nn.transport import transport_distance
from polymodal.train.collator import Collator, Learner
from polymodal.train.objectives import Batch, Loss, Losses
from polymodal.train.region_batches import region_texts

OWN = ("masked_input_ids", "labels", "masked_regions", "masked_visual_feats", "region_classes", "region_labels",
       "region_confidence", "matched", "answer_labels")  # fmt: skip


def hidden_features(batch: Batch) -> Tensor:
    """visual_feats with zeros where regions are hidden, or what the batch has in their place."""
    made = batch.get("masked_visual_feats")
    return batch["visual_feats"].masked_fill(batch["masked_regions"][..., None], 0) if made is None else made


def class_divergence(logits: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
    """KL divergence of a detector's probabilities [B, R, C] and logits of that shape, summed over classes, mean over
    hidden regions [B, R]."""
    each = F.kl_div(logits.float().log_softmax(-1), targets.float(), reduction="none").sum(-1)
    return (each * hidden).sum() / hidden.sum().clamp_min(1)


def feature_distance(found: Tensor, wanted: Tensor, hidden: Tensor, kind: Literal["square", "smooth"]) -> Tensor:
    """Mean over hidden regions and over features of the square, or of the smooth absolute difference."""
    distance = F.mse_loss if kind == "square" else F.smooth_l1_loss
    each = distance(found.float(), wanted.float(), reduction="none").mean(-1)
    return (each * hidden).sum() / hidden.sum().clamp_min(1)


def needs_heads(model: nn.Module, what: str, heads: tuple[str, ...]) -> RegionText:
    """The model itself.  Raises ConfigError unless it reads regions and has these heads."""
    found = tuple(model.heads) if isinstance(model, RegionText) else ()
    missing = [head for head in heads if head not in found]
    if not isinstance(model, RegionText) or missing:
        lacks = missing[0] if isinstance(model, RegionText) else "regions"
        raise ConfigError(f"objective: {what} needs a RegionText with {', '.join(heads)}; this model lacks {lacks}")
    return model


@dataclass(frozen=True, kw_only=True)
class RegionPretraining:
    """yes: the class of the match head that says that a pair belongs together.  labels: heads of region labels.

    visual_weight: of losses of regions; those of labels and features are means over ALL regions (LXMERT's 6.67 is 1 /
    0.15, the share that is hidden).  answers: the main head learns `answer_labels`.  kept, swapped: shares of
    the hidden regions that stay as they are, and that become another region.
    """

    name: ClassVar[str] = "region_pretraining"
    yes: int = 1
    labels: tuple[str, ...] = ()
    visual_weight: float = 1.0
    answers: bool = False
    kept: float = 0.0
    swapped: float = 0.0

    def build(self, model: nn.Module) -> Loss:
        needs_heads(model, "region pretraining", ("words", "match", *(("regions",) if self.labels else ())))
        return RegionPretrainingLoss(self)

    def collator(self, learner: Learner) -> Collator:
        """Regions with captions, or with questions and answers."""
        heads = needs_heads(learner.module, "region pretraining", ("words", "match")).config.heads
        outputs = heads["regions"].module.outputs if self.labels else {}  # type: ignore[attr-defined]
        return region_texts(
            learner,
            heads,
            kept=self.kept,
            swapped=self.swapped,
            labels={name: outputs[name] for name in self.labels},
            needs_classes="classes" in heads,
            answers=self.answers,
        )


class RegionPretrainingLoss(Loss):
    """See RegionPretraining."""

    def __init__(self, config: RegionPretraining) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: Any, batch: Batch) -> Losses:
        given = {name: value for name, value in batch.items() if name not in OWN}
        if batch.get("masked_input_ids") is not None:
            given["input_ids"] = batch["masked_input_ids"]
        if batch.get("masked_regions") is not None:
            given["visual_feats"] = hidden_features(batch)
        found = model.predictions(**given)
        losses: Losses = {}
        if batch.get("labels") is not None:
            losses["masked_words"] = masked_token_loss(found["words"], batch["labels"])
        if batch.get("matched") is not None:
            said = batch["matched"] if self.config.yes == 1 else 1 - batch["matched"]
            losses["match"] = F.cross_entropy(found["match"].float(), said.long())
        if batch.get("masked_regions") is not None:
            losses |= self.seen(model, batch, found)
        if self.config.answers and batch.get("answer_labels") is not None:
            losses["answer"] = masked_token_loss(found[model.config.main], batch["answer_labels"])
        return losses

    def seen(self, model: Any, batch: Batch, found: Mapping[str, Tensor]) -> Losses:
        """Losses of hidden regions: what the detector said of them, and their features."""
        hidden = batch["masked_regions"].float()
        weight, losses = self.config.visual_weight, {}
        if batch.get("region_classes") is not None:
            losses["region_classes"] = weight * class_divergence(found["classes"], batch["region_classes"], hidden)
        for name in self.config.labels:
            each = F.cross_entropy(found[name].float().transpose(1, 2), batch["region_labels"][name], reduction="none",
                                   ignore_index=IGNORE)  # fmt: skip
            sure = (batch.get("region_confidence") or {}).get(name)
            losses[name] = weight * (each if sure is None else each * sure).mean()
        if "features" in found:
            each = F.smooth_l1_loss(found["features"].float(), batch["visual_feats"].float(), reduction="none").mean(-1)
            losses["features"] = weight * (each * hidden).mean()
        return losses


@dataclass(frozen=True, kw_only=True)
class ConditionalMasking:
    """UNITER's four tasks, those that the batch has the tensors of.  alignment_weight: of (distance of true pairs -
    distance of replaced ones) / pairs, by optimal transport over all real words and regions.  turns: how often a step
    is of each task; one of regions asks for features and classes at once, as often as the published ones of each."""

    name: ClassVar[str] = "conditional_masking"
    alignment_weight: float = 0.1
    turns: Mapping[str, int] = field(default_factory=lambda: {"match": 6, "words": 8, "regions": 4})

    def build(self, model: nn.Module) -> Loss:
        needs_heads(model, "conditional masking", ("words", "match", "features", "classes"))
        return ConditionalMaskingLoss(self.alignment_weight)

    def collator(self, learner: Learner) -> Collator:
        """Regions with captions."""
        heads = needs_heads(learner.module, "conditional masking", ("words", "match", "features")).config.heads
        return region_texts(learner, heads, turns=self.turns)


class ConditionalMaskingLoss(Loss):
    """See ConditionalMasking."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, model: Any, batch: Batch) -> Losses:
        whole = {name: value for name, value in batch.items() if name not in OWN}
        losses: Losses = {}
        if batch.get("masked_input_ids") is not None:
            words = model.predictions(**{**whole, "input_ids": batch["masked_input_ids"]})["words"]
            losses["masked_words"] = masked_token_loss(words, batch["labels"])
        if batch.get("masked_regions") is not None:
            hidden = batch["masked_regions"]
            given = {**whole, "visual_feats": hidden_features(batch), "masked_regions": hidden}
            found = model.predictions(**given)
            losses["region_features"] = feature_distance(
                found["features"], batch["visual_feats"], hidden.float(), "square"
            )
            if batch.get("region_classes") is not None:
                count = batch["region_classes"].shape[-1]
                divergence = class_divergence(found["classes"], batch["region_classes"], hidden.float())
                losses["region_classes"] = divergence / count  # a mean over classes too
        if batch.get("matched") is not None:
            losses |= self.pairs(model, whole, batch["matched"])
        return losses

    def pairs(self, model: Any, whole: dict[str, Any], matched: Tensor) -> Losses:
        """Match and alignment of whole texts and pictures."""
        text, image = model.encode(**whole)
        found = model.read_heads(text, image, whole.get("visual_attention_mask"))["match"]
        real = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if whole.get(name) is None
                else whole[name].bool()
                for x, name in ((text, "attention_mask"), (image, "visual_attention_mask"))]  # fmt: skip
        distance = transport_distance(text, image, *real)
        sign = torch.where(matched.bool(), 1.0, -1.0)
        return {
            "match": F.cross_entropy(found.float(), matched.long()),
            "alignment": self.weight * (sign * distance).sum() / len(distance),
        }
