"""Contrast, match and masked words with a momentum teacher and its queue: ALBEF (arXiv 2107.07651), BLIP (2201.12086).

    pictures, texts -> student, teacher -> unit vectors -> contrast against [teacher's batch ; queue], soft targets
    contrast's similarities -> one hard negative for each picture and text -> match head
    texts with hidden words -> token head, against the words and the teacher's own distribution

The built loss holds the teacher and the queue; a checkpoint saves them.  A model without a learned temperature gets one
that the loss holds.
Traps: the teacher moves before it looks; the share of its targets rises over `ramp_steps`; teacher and model are
sharded alike, and the features of all processes are gathered before they enter the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.fusion_encoder import FusionEncoder
from polymodal.nn.losses import masked_token_loss, match_loss, negatives
from polymodal.train import alignment
from polymodal.train.collator import Collator, Learner
from polymodal.train.objectives import Batch, Loss, Losses
from polymodal.train.pairs import MomentumCollator, pair_processor, word_masking

LOWEST, HIGHEST = 0.001, 0.5  # bounds of the learned temperature


@dataclass(frozen=True, kw_only=True)
class MomentumAlignment:
    """Contrast and match, and masked words where the batch has `masked_input_ids` with `labels`.

    Batch: input_ids, attention_mask, pixel_values; image_ids [B]: texts of one picture are positives of one another.
    alpha: share of the teacher in the targets, reached linearly over `ramp_steps`.  negative_floor: added to the
    chance of every wrong partner.
    """

    name: ClassVar[str] = "momentum_alignment"
    copies_model: ClassVar[bool] = True
    queue: int = 65_536
    momentum: float = 0.995
    alpha: float = 0.4
    ramp_steps: int = 0
    negative_floor: float = 0.0
    temperature: float = 0.07

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, FusionEncoder):
            raise ConfigError(f"objective: momentum alignment is for a FusionEncoder, not a {type(model).__name__}")
        return MomentumAlignmentLoss(self, model)

    def collator(self, learner: Learner) -> Collator:
        """Pictures with captions; words are hidden where the stage's data says so and the model has a word head."""
        module, processor = learner.module, pair_processor(learner)
        hides = learner.masked_words and isinstance(module, FusionEncoder) and module.token_head is not None
        masking = word_masking(learner, learner.masked_words or 0.0) if hides else None
        return MomentumCollator(processor=processor, longest=learner.max_length, masking=masking)


class MomentumAlignmentLoss(Loss):
    """See MomentumAlignment."""

    step: Tensor

    def __init__(self, config: MomentumAlignment, model: FusionEncoder) -> None:
        super().__init__()
        self.config = config
        self.teacher = alignment.Teacher(model, config.momentum)
        self.queue = alignment.FeatureQueue(config.queue, model.image_proj.out_features)
        own = model.temperature is None
        self.temperature = nn.Parameter(torch.tensor([config.temperature])) if own else None
        self.register_buffer("step", torch.zeros(1, dtype=torch.long))

    def forward(self, model: Any, batch: Batch) -> Losses:
        ids, mask, pictures = batch["input_ids"], batch["attention_mask"], {"pixel_values": batch["pixel_values"]}
        learning = torch.is_grad_enabled()  # an evaluation leaves temperature, teacher, queue and step as they are
        if learning:
            alignment.keep_within(self.divisor(model), LOWEST, HIGHEST)
        alpha = self.alpha(learning)
        teacher: Any = self.teacher.model
        with torch.no_grad():
            if learning:
                self.teacher.follow(model)
            taught = teacher.image_states(**pictures)
            targets = units(teacher.joint_vectors(taught, ids, mask))
        image = model.image_states(**pictures)
        vectors = units(model.joint_vectors(image, ids, mask))
        # A sharded model has its parameters whole only once one of its methods has run, and frees them when the
        # backward pass of another has: hence here, and a copy.
        scale = partial(alignment.scaled, temperature=self.divisor(model).clone())
        groups = batch.get("image_ids")
        found = alignment.contrast(vectors, targets, self.queue, scale, alpha=alpha, ids=groups)
        if learning:
            self.queue.push(*targets, groups)
        losses = {"contrastive": found.loss, "match": self.match(model, image, batch, found)}
        if batch.get("masked_input_ids") is not None:
            hidden = batch["masked_input_ids"]
            with torch.no_grad():
                soft = teacher.token_logits(taught, hidden, mask)
            words = model.token_logits(image, hidden, mask)
            losses["masked_words"] = masked_token_loss(words, batch["labels"], soft, alpha)
        return losses

    def match(self, model: Any, image: Tensor, batch: Batch, found: alignment.Contrast) -> Tensor:
        """Each pair, each text with a wrong picture, each picture with a wrong text."""
        ids, mask, floor = batch["input_ids"], batch["attention_mask"], self.config.negative_floor
        groups = batch.get("image_ids")
        texts = negatives(found.image_to_text, ids=groups, floor=floor)
        images = negatives(found.text_to_image, ids=groups, floor=floor)
        logits = model.match_logits(
            torch.cat((image, image[images], image)),
            torch.cat((ids, ids, ids[texts])),
            torch.cat((mask, mask, mask[texts])),
        )
        return match_loss(logits, len(ids))

    def divisor(self, model: Any) -> Tensor:
        """The learned temperature [1], the model's or the loss's own."""
        return model.temperature if self.temperature is None else self.temperature

    def alpha(self, counting: bool = True) -> float:
        """The teacher's share at this step, which is counted."""
        ramp = self.config.ramp_steps
        share = min(1.0, float(self.step) / ramp) if ramp else 1.0
        self.step += int(counting)
        return self.config.alpha * share


def units(vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Joint vectors of pictures and texts, of length one."""
    return F.normalize(vectors["image"], dim=-1), F.normalize(vectors["text"], dim=-1)
