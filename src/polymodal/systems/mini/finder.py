"""Where the things are that `mini`'s detector knows: boxes beside the answer, which is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from polymodal.data.normalise import as_picture
from polymodal.data.transforms import ImageTransform
from polymodal.encoders.centernet import CenterNet, detections
from polymodal.nn.first_weight import first_weight
from polymodal.pipelines.grounding import Grounding, Thing, distinct

LEAST = 0.3  # score of a thing that is told of


class Finder:
    """Pictures -> things.  words: what each of the detector's kinds is called; transform: -> [3, H, H], padded."""

    def __init__(self, detector: CenterNet, words: Sequence[str], transform: ImageTransform):
        self._detector = detector
        self._words = words
        self._transform = transform

    def ground(self, answer: str, pictures: Sequence[Any]) -> Grounding:
        """The answer, and the things of all pictures, of each the surest first."""
        things = tuple(thing for index, picture in enumerate(pictures) for thing in self.find(picture, index))
        return Grounding(text=answer, things=things)

    @torch.inference_mode()
    def find(self, image: Any, index: int = 0) -> list[Thing]:
        """One picture (a record or decoded) -> its things, the surest first, overlapping ones of a kind left out."""
        picture = as_picture(image)
        like = first_weight(self._detector)
        scores, kinds, boxes = detections(*self._detector(self._transform(picture)[None].to(like)))
        side, longest = self._transform.shape[-1], max(picture.size)
        edge = torch.tensor([(longest - length) / 2 for length in picture.size] * 2)  # of the padding, in its pixels
        inside = (boxes[0].float().cpu() * longest / side - edge) / torch.tensor(picture.size * 2)
        found = [
            Thing(label=self._words[kind], box=tuple(box), score=score, picture=index)
            for score, kind, box in zip(scores[0].tolist(), kinds[0].tolist(), inside.clamp(0, 1).tolist(), strict=True)
            if score >= LEAST and box[0] < box[2] and box[1] < box[3]
        ]
        return distinct(found)
