"""Masked data modelling (BEiT-3, arXiv 2208.10442; VL-BEiT, 2206.01127): hidden words of texts, hidden patches of
pictures, both of pairs, by one stack.

Batch, by what it holds: texts alone (masked_input_ids, attention_mask, labels), pictures alone (pixel_values,
bool_masked_pos, image_labels), or pairs with all of them.  image_labels [N, P]: codes of a visual tokenizer (BEiT
v2's), of every patch or -100 where nothing is hidden.
The head of patches is the loss's own: no published file has it under a name that is known.  Traps: in pairs half of the
words are hidden, in texts 15 %; patches come behind the class token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from polymodal.errors import ConfigError
from polymodal.models.multiway import Multiway
from polymodal.nn.losses import IGNORE, masked_token_loss
from polymodal.train.collator import Collator, Learner
from polymodal.train.masked import masked_data
from polymodal.train.objectives import Batch, Loss, Losses


@dataclass(frozen=True, kw_only=True)
class MaskedDataModeling:
    """codes: size of the visual vocabulary.  texts: share of the words that are hidden in texts without a picture; of
    pairs it is the stage's `masked_words`."""

    name: ClassVar[str] = "masked_data_modeling"
    codes: int = 8192
    texts: float = 0.15

    def build(self, model: nn.Module) -> Loss:
        return MaskedDataModelingLoss(self.codes, writes_words(model).config.tower.width)

    def collator(self, learner: Learner) -> Collator:
        """Pairs, pictures and texts, a data set of each; codes of the patches."""
        tower = writes_words(learner.module).config.tower
        side = tower.image_size // tower.patch_size
        return masked_data(learner, (side, side), self.codes, self.texts)


def writes_words(model: nn.Module) -> Multiway:
    """The model itself.  Raises ConfigError for one that cannot learn hidden words and patches."""
    if not isinstance(model, Multiway) or model.config.kind != "words" or model.encoder.mask_token is None:
        raise ConfigError("objective: masked data modeling needs a Multiway with a head of words and a mask token")
    return model


class MaskedDataModelingLoss(Loss):
    """See MaskedDataModeling; holds the head of patches."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Linear(width, codes)

    def forward(self, model: Any, batch: Batch) -> Losses:
        pixels, ids = batch.get("pixel_values"), batch.get("masked_input_ids")
        states = model.states(
            pixel_values=pixels, input_ids=ids, attention_mask=None if ids is None else batch.get("attention_mask"),
            bool_masked_pos=None if pixels is None else batch["bool_masked_pos"],
        )  # fmt: skip
        count = 0 if pixels is None else model.config.tower.tokens
        losses: Losses = {}
        if pixels is not None:
            labels = batch["image_labels"].masked_fill(~batch["bool_masked_pos"].flatten(1), IGNORE)
            losses["masked_patches"] = masked_token_loss(self.patches(states[:, 1:count]), labels)
        if ids is not None:
            losses["masked_words"] = masked_token_loss(model.words(states[:, count:]), batch["labels"])
        return losses
