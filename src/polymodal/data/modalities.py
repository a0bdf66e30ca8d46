"""The table of modalities: the name of each, what a user passes for it, and the tensor it becomes in a batch.

    name          a user passes         tensor of a batch      token type
    image         Image                 pixel_values           1
    depth         Image, modality=...   depth_values           4
    point_cloud   Array                 point_cloud_values     7
    (any other)   Array, own record     <name>_values          9

A system may use a modality that is not listed: it names it where it declares its processor
(`data/processor.py:Modality`) and its encoders, with another tensor name or token type if needed.  The table only
holds the defaults that many share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media import Array, Audio, Image, Media, Video
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KnownModality:
    """One row.  media: the record that a user's source becomes, called as `media(source, limits, modality=name)`; None:
    text.  values: the tensor it enters a model as.  token_type: its number in `token_types`.  tokens:
    value -> how many tokens it takes, where that follows from the value itself; None: it depends on the encoder.
    """

    name: str
    values: str
    token_type: int
    media: type[Media] | None = Array
    tokens: Callable[[Any], int] | None = None


MODALITIES: Mapping[str, KnownModality] = MappingProxyType(
    {
        each.name: each
        for each in (
            KnownModality(name="text", values="input_ids", token_type=0, media=None),
            KnownModality(name="image", values="pixel_values", token_type=1, media=Image),
            KnownModality(name="audio", values="audio_values", token_type=2, media=Audio),
            KnownModality(name="video", values="video_values", token_type=3, media=Video),
            KnownModality(name="depth", values="depth_values", token_type=4, media=Image),
            KnownModality(name="thermal", values="thermal_values", token_type=5, media=Image),
            KnownModality(name="imu", values="imu_values", token_type=6),
            KnownModality(name="point_cloud", values="point_cloud_values", token_type=7),
            KnownModality(name="features", values="feature_values", token_type=8, tokens=len),
        )
    }
)
"""Modalities that several systems share, by name; imu: series of an inertial sensor, features: steps of any width."""


def modality_of(name: str) -> KnownModality:
    """The row of a name, a default one for names outside the table.  Raises ConfigError for an invalid name."""
    if name in MODALITIES:
        return MODALITIES[name]
    if not name.isidentifier():
        raise ConfigError(f"modality {name!r}: expected a name of letters, digits and underscores")
    return KnownModality(name=name, values=f"{name}_values", token_type=len(MODALITIES))


WRITTEN = frozenset(
    {"input_ids", "attention_mask", "position_ids", "token_types", "token_type_ids", "mm_token_type_ids", "segments",
     "labels", "item_counts", "item_tokens", "token_type_counts", "decoder_input_ids", "decoder_attention_mask"}
)  # fmt: skip
"""The tensors of a batch that say something about its text."""


def holds_media(tensors: Mapping[str, Any]) -> bool:
    """Whether a batch has values of any modality beside its text."""
    return any(value is not None for name, value in tensors.items() if name not in WRITTEN)


@dataclass(frozen=True)
class Sequences:
    """What `sequences` gives; an object, so that it can be sent to other processes."""

    values: str
    counts: str

    def __call__(self, items: Sequence[Tensor]) -> dict[str, Any]:
        return {self.values: torch.cat(list(items)), self.counts: tuple(map(len, items))}


def sequences(values: str, counts: str) -> Callable[[Sequence[Tensor]], dict[str, Any]]:
    """A `collate` for items of unequal length, [s_i, ...] each.

    -> {values: [sum of s_i, ...], counts: how many steps each has, numbers that stay on the host}
    """
    return Sequences(values, counts)
