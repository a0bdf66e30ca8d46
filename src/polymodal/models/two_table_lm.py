"""A language model with two tables and two heads: ids of text and ids of pictures count from 0 both, a mask tells them.

    input_ids [B, T], vision_masks [B, T] -> text: id; picture: size of text + id -> one stacked table
    hidden -> one head, the two stacked -> logits [B, T, text + vision]; each id learned among its own kind
    pixels [N, 3, H, W] or frames [F, 3, H, W] -> codes -> codes and a mark behind every frame

LWM (arXiv 2402.08268).  Stacked, both tables are rows of one, so that caches, grammars and guidance know no second one.
Traps: without `vision_masks` the ids are those of the stacked table already; answers are text, as in the published text
mode (`answer_rule`), pictures are written by a grammar (systems/lwm/painting.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import PromptError
from polymodal.fusion.vocabulary import Span, Spelling, Vocabulary
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.nn.losses import IGNORE, shifted, token_loss

INPUTS = {
    "image": ModalityInputs(values="pixel_values"),
    "video": ModalityInputs(values="video_values", connector=("frame_counts",), uses="image"),
}


class StackedIds:
    """Ids of a batch with `vision_masks` (1: an id of pictures) as ids of the stacked table."""

    input_names = frozenset({"vision_masks"})

    def __init__(self, text: int, vision: int) -> None:
        self.text, self.vision = text, vision

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def rewrite(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Raises PromptError for an id outside the table that its mask says."""
        result = dict(batch)
        mask = result.pop("vision_masks", None)
        if mask is None:
            return result
        mask = mask.bool()
        for name in ("input_ids", "labels"):
            ids = result.get(name)
            if ids is None:
                continue
            if name == "input_ids" and bool((ids[mask] >= self.vision).any()):
                raise PromptError(
                    f"vision_masks: ids of pictures lie below {self.vision}, found {int(ids[mask].max())}"
                )
            result[name] = torch.where(mask & (ids != IGNORE), ids + self.text, ids)
        return result


class FrameSpelling(Spelling):
    """Codes of frames -> ids, with `frame_end` behind every frame and `end` behind the last of an item."""

    def __init__(self, text: int, codes: int, frame_end: int, end: int) -> None:
        span = Span(start=text, count=codes)
        super().__init__(Vocabulary(size=text + max(codes, frame_end + 1, end + 1), codecs={"image": span}))
        self.frame_end, self.end = text + frame_end, text + end

    def items(self, codes: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """codes [F, h, w] of all frames, how many of them each item has -> int64 [f_i * (h * w + 1)] of each."""
        found = []
        for each in codes.split(list(counts)):
            ids = nn.functional.pad(self._spell(each).flatten(1), (0, 1), value=self.frame_end)
            ids[-1, -1] = self.end
            found.append(ids.flatten())
        return found


class TwoTableLM(DiscreteTokenLM):
    """codec: pictures -> codes.  text, vision: rows of the two tables, stacked in the backbone's in this order."""

    def __init__(self, codec: nn.Module, spelling: FrameSpelling, backbone: Decoder, text: int) -> None:
        size = backbone.config.vocab_size
        super().__init__({"image": codec}, {"image": spelling}, backbone, {"image": size, "video": size + 1}, INPUTS)
        self.prepare_inputs = StackedIds(text, size - text)
        self.text = text
        with torch.device("cpu"):  # also where the model is built on the meta device: no weight
            self._words = torch.arange(text)

    def answer_rule(self, written: Sequence[int]) -> Tensor:
        """Ids that an answer may go on with: text."""
        return self._words

    @torch.no_grad()
    def tokens(self, modality: str, batch: Mapping[str, Any]) -> list[Tensor]:
        """Ids of all items: of a picture its codes and the end, of a video those of its frames, each with a mark."""
        frames = batch[self.inputs[modality].values]
        counts = batch["frame_counts"] if modality == "video" else [1] * len(frames)
        spelling: Any = self.connectors["image"]
        found: list[Tensor] = spelling.items(self.encoders["image"](frames), counts)
        return found

    def losses(self, hidden: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Half of the mean over labels of text, half of that over labels of pictures; each among its own kind."""
        labels = shifted(batch["labels"])
        valid = labels != IGNORE
        targets, logits = labels[valid], self.backbone.head(hidden[valid])
        weights = batch.get("token_weights")
        seen = targets >= self.text
        sides = {
            "language_model": (~seen, slice(None, self.text), 0),
            "vision": (seen, slice(self.text, None), self.text),
        }
        losses = {}
        for name, (side, columns, first) in sides.items():
            own = None if weights is None else weights[targets[side]]
            losses[name] = 0.5 * token_loss(logits[side][:, columns], targets[side] - first, own)
        return losses
