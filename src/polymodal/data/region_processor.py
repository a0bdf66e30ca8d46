"""Regions of a picture and one text each -> the tensors of models that read a detector's features.

    processor(messages)                regions and text of a conversation's last message, or of several
    processor(regions=..., text=...)   the same
        Regions -> the surest of them -> visual_feats [B, R, F], visual_pos [B, R, P], visual_attention_mask [B, R]
        text -> ids, begin and end included -> input_ids, attention_mask, token_type_ids [B, T]
    a picture -> `detector` -> Regions, where one was plugged in: `model.processor.detector = my_detector`

Traps: what is kept stays in the order of the file; ViLBERT's first region is the mean of all, with the whole picture
as its box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.data.item_rules import check_picklable
from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.media import Image, Media, Text
from polymodal.data.messages import are_several, conversation
from polymodal.data.region_features import Detector, RegionFeatures, Regions
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError, PromptError


@dataclass(frozen=True, kw_only=True)
class RegionRules:
    """features: numbers a region.  positions: boxes [R, 4] as shares of the picture -> [R, P].  At most `most` regions
    are kept; of files that say how sure the detector was, those above `threshold`, but `least` where there are so many.
    whole_first: the mean of the features goes in front, as a region of the whole picture.
    """

    features: int
    positions: Callable[[Tensor], Tensor]
    most: int
    least: int = 1
    threshold: float | None = None
    whole_first: bool = False

    def kept(self, found: RegionFeatures) -> np.ndarray:
        """Which regions are kept, in the order of the file.  Raises PromptError for features of another width."""
        if found.features.shape[1] != self.features:
            raise PromptError(
                f"{found.name}: {found.features.shape[1]} numbers a region, this model reads {self.features}; "
                "take the features of the detector that it was trained with"
            )
        count = len(found.features)
        if self.threshold is not None and found.scores is not None:
            count = max(self.least, int((found.scores > self.threshold).sum()))
        return np.sort(found.best[: min(count, self.most)])

    def __call__(self, found: RegionFeatures) -> tuple[Tensor, Tensor]:
        """features [R, F] and positions [R, P].  Raises PromptError as `kept` does."""
        kept = self.kept(found)
        features = torch.from_numpy(np.ascontiguousarray(found.features[kept], np.float32))
        boxes = torch.from_numpy(np.ascontiguousarray(found.boxes[kept], np.float32))
        if self.whole_first:
            features = torch.cat((features.mean(0, keepdim=True), features))
            boxes = torch.cat((torch.tensor([[0.0, 0.0, 1.0, 1.0]]), boxes))
        return features, self.positions(boxes)


class RegionProcessor:
    """See the module docstring.  ids: sentence -> token ids.  detector: picture -> RegionFeatures, None: pictures are
    refused.  answers: what the columns of the model's logits mean, where it answers by choosing one."""

    def __init__(
        self,
        *,
        rules: RegionRules,
        tokenizer: Tokenizer,
        ids: Callable[[str], Sequence[int]],
        pad: int = 0,
        detector: Detector | None = None,
        answers: tuple[str, ...] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.answers = answers
        self.detector = detector
        self.rules = rules
        self._ids, self._pad = ids, pad

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, for workers of a DataLoader.  Raises ConfigError for a function that cannot be."""
        check_picklable(self)
        return vars(self)

    def __call__(
        self,
        messages: Any = None,
        *,
        regions: Any = None,
        text: Any = None,
        generate: bool = False,
        files: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> dict[str, Tensor]:
        """messages: one conversation, or a list of lists of messages; its last message counts.  regions, text: one or a
        list.  generate: as for `Processor`; nothing differs here.

        Raises PromptError for a row without exactly one picture's regions, or without a text.
        """
        if messages is not None and (regions is not None or text is not None):
            raise ConfigError("processor: give messages, or regions and text")
        if messages is None:
            found = regions if isinstance(regions, list | tuple) else [] if regions is None else [regions]
            return self.batch(found, [text] if isinstance(text, str) else list(text or ()))
        several = are_several(messages)
        rows = [conversation(row, files=files, limits=limits)[-1] for row in (messages if several else [messages])]
        for index, row in enumerate(rows):
            if len(row.media) != 1 or not row.text:
                raise PromptError(
                    f"row {index}: expected the regions of one picture and a text, found {len(row.media)} and "
                    f"{row.text[:40]!r}"
                )
        return self.batch([row.media[0] for row in rows], [row.text for row in rows])

    def batch(self, regions: Sequence[Any], texts: Sequence[str]) -> dict[str, Tensor]:
        """Regions and texts in equal number, or one of both."""
        if not regions and not texts:
            raise PromptError("processor: expected regions and a text, found neither")
        if regions and texts and len(regions) != len(texts):
            raise PromptError(f"processor: {len(regions)} pictures for {len(texts)} texts; they are paired by row")
        batch = self.regions(regions) if regions else {}
        return batch | self.texts(texts) if texts else batch

    def regions(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """visual_feats, visual_pos and visual_attention_mask of the regions of several pictures, padded with zeros."""
        return self.padded([self.rules(self.found_in(item)) for item in items])

    def padded(self, rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The same of features and positions as the rules give them."""
        longest = max(len(features) for features, _ in rows)
        feats = torch.zeros(len(rows), longest, rows[0][0].shape[1])
        places = torch.zeros(len(rows), longest, rows[0][1].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for row, (features, positions) in enumerate(rows):
            feats[row, : len(features)], places[row, : len(features)] = features, positions
            mask[row, : len(features)] = 1
        return {"visual_feats": feats, "visual_pos": places, "visual_attention_mask": mask}

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """input_ids, attention_mask and token_type_ids of texts, padded on the right."""
        return self.padded_texts([self.ids(text) for text in texts])

    def ids(self, text: str) -> list[int]:
        """Of one text, with what begins and ends it."""
        return list(self._ids(text))

    def padded_texts(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The same of ids."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self._pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}

    def found_in(self, item: Any) -> RegionFeatures:
        """The regions of an item: of the record itself, or what the detector finds in a picture."""
        if isinstance(item, RegionFeatures):
            return item
        if isinstance(item, Regions):
            return item.values
        if isinstance(item, Image) and self.detector is not None:
            found = self.detector(item.picture)
            if not isinstance(found, RegionFeatures):
                raise ConfigError(f"detector: expected RegionFeatures of a picture, found {type(found).__name__}")
            return found
        shown = type(item).__name__.lower() if isinstance(item, Media | Text) else type(item).__name__
        hint = "; set model.processor.detector to read pictures" if isinstance(item, Image) else ""
        raise PromptError(f"this model takes the regions of a picture (pm.regions) and text; found {shown}{hint}")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it takes beside text."""
        return ("regions",) if self.detector is None else ("regions", "image")
