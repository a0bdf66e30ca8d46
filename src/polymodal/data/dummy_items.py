"""Dummy items, so that every process of a sharded run encodes each modality, whether its own batch has items or not.

    dummies = dummy_items(processor)                                     once
    batch = processor.collate(rows, padding="right", dummies=dummies)    each step

A process whose batch has no pictures would skip the vision encoder, whose parameters the others gather: all would
wait for ever.  So the batch gets one blank item of each modality that it lacks, with `item_counts` of 0 and its name in
`dummy_modalities`; the model encodes it and multiplies the result by zero (`models/multimodal_lm.py`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from polymodal.data.media import Audio, Image, Media, Video
from polymodal.data.messages import conversation
from polymodal.data.processor import Processor
from polymodal.data.video import Clip
from polymodal.errors import ConfigError

_SIDE = 64  # pixels; transforms resize
_SECONDS, _RATE = 1, 16_000


@dataclass(frozen=True, repr=False)
class BlankVideo(Video):
    """Black frames, as many as are asked for, without sound."""

    source: Any = b""

    @cached_property
    def seconds(self) -> float:
        """A second."""
        return float(_SECONDS)

    @cached_property
    def frame_times(self) -> np.ndarray:
        """Two frames."""
        return np.array([0.0, _SECONDS / 2])

    def clip(
        self,
        *,
        fps: float | None = None,
        frames: int | None = None,
        times: Sequence[float] | None = None,
        max_side: int | None = None,
    ) -> Clip:
        """Two frames at least, since some encoders join pairs."""
        count = max(len(times or ()), frames or 2, 2)
        return Clip(np.zeros((count, _SIDE, _SIDE, 3), np.uint8), np.arange(count) / (fps or 1.0))


_BLANK: Mapping[type[Media], Callable[[str], Media]] = {
    Image: lambda name: Image(np.zeros((_SIDE, _SIDE, 3), np.uint8), modality=name),
    Audio: lambda name: Audio((np.zeros(_SECONDS * _RATE, np.float32), _RATE), modality=name),
    Video: lambda name: BlankVideo(modality=name),
}


def dummy_items(processor: Processor, modalities: Collection[str] | None = None) -> dict[str, Any]:
    """modality -> the value of a blank item of it, through the processor's own transform; default: all that it takes.

    Raises ConfigError for a modality of arrays, whose shape only its own system knows.
    """
    values: dict[str, Any] = {}
    for name in processor.modalities if modalities is None else modalities:
        media = processor.modalities[name].known.media
        if media is None or media not in _BLANK:
            raise ConfigError(
                f"{name!r} has no blank item: its shape is known to its system alone; give each batch one"
            )
        if name in values:
            continue  # the item of another modality is read as one of this too (CogAgent's large pictures)
        message = {"role": "user", "content": [_BLANK[media](name), "-"]}
        for span in processor.encode(conversation([message])).media_spans:
            values.setdefault(span.item.modality, span.item.values)
    return {name: value for name, value in values.items() if modalities is None or name in modalities}
