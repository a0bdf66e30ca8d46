"""`pm.image`, `pm.audio`, `pm.video`, `pm.array`, `pm.regions`, `pm.text` and `pm.media`: what a model is asked about.

Each gives a small record; nothing is decoded before a model needs it.  limits: how large the file may be; by default
as POLYMODAL_LIMITS says (data/limits.py).
Where media are meant, what people have at hand is taken for the record that it can only be (`as_media`): a
pathlib.Path, a PIL image, uint8 pixels, (samples, rate).
"""

from __future__ import annotations

import mimetypes
import os
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.api.paths import is_weights_file
from polymodal.data.limits import Limits, own_limits
from polymodal.data.media import Array, Audio, Image, Media, Text, Video, guess_media
from polymodal.data.region_features import Regions
from polymodal.errors import MediaError, PromptError

MAX_TEXT = 200_000
MEDIA_TYPES = ("image", "audio", "video")


def image(source: Any, modality: str = "image", *, limits: Limits | None = None) -> Image:
    """A picture: a path, the bytes of a file, a PIL image, or uint8 [H, W], [H, W, 3], [H, W, 4] or [3, H, W].

    modality: "depth" or "thermal" for one of those.
    """
    return Image(channels_last(_on_host(source)), limits or own_limits(), modality=modality)


def audio(source: Any, *, limits: Limits | None = None) -> Audio:
    """A recording: a path, the bytes of a file, or (samples, rate)."""
    if isinstance(source, tuple) and len(source) == 2:
        source = _on_host(source[0]), source[1]
    return Audio(source, limits or own_limits())


def video(source: Any, *, limits: Limits | None = None) -> Video:
    """A video: a path or the bytes of a file."""
    return Video(source, limits or own_limits())


def array(source: Any, modality: str = "", *, limits: Limits | None = None) -> Array:
    """Numbers: an array, a tensor, nested lists, a path or the bytes of a .npy file.

    modality: "imu", "point_cloud", "features" or one of a system's own; may be left out where a model takes one only.
    """
    return Array(source, limits or own_limits(), modality=modality)


def regions(source: Any, image_id: str | None = None, *, limits: Limits | None = None) -> Regions:
    """The regions of a picture, as a detector said: RegionFeatures, a path or the bytes of a .npz file, or of a .tsv
    file of bottom-up attention with the image_id of the picture (data/region_features.py)."""
    return Regions(source, limits or own_limits(), image_id)


def text(words: str) -> Text:
    """Text of the user; special tokens typed in it stay plain text."""
    return Text(words)


def media(source: str | os.PathLike[str] | bytes, *, limits: Limits | None = None) -> Media | Text:
    """A file, or the bytes of one, as what it holds: a picture, recording, video, array (.npy) or text.

    Contents decide, not the extension; but text under a media extension (a web page saved as photo.jpg) is a
    mistake and raises MediaError, as do a URL and a file that cannot be read.
    """
    if not isinstance(source, bytes) and "://" not in str(source):  # a Path of a URL would lose one of its slashes
        source = Path(source)
        if is_weights_file(source):
            raise MediaError(f"{source} is a weights file, not media; as a model it is given by --model or pm.load")
    found = guess_media(source, limits or own_limits())
    if not isinstance(found, Text):
        return found
    name = "the text" if isinstance(source, bytes) else Path(source).name
    claimed = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
    if claimed in MEDIA_TYPES:
        raise MediaError(f"{name} holds plain text although its name says {claimed}; is it a failed download?")
    if len(found.text) > MAX_TEXT:
        raise MediaError(f"{name} has {len(found.text):,} characters of text, the limit is {MAX_TEXT:,}")
    return found


def as_media(item: Any) -> Media | Text | None:
    """The record of what can only be media: a pathlib.Path, bytes, a PIL image, pixels, (samples, rate); else None.

    Raises PromptError for an array that could be several things, MediaError for a file that is none.
    """
    from PIL import Image as Pillow

    if isinstance(item, Media | Text):
        return item
    if isinstance(item, os.PathLike):
        return media(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return guess_media(bytes(item), own_limits())
    if isinstance(item, Pillow.Image):
        return image(item)
    if is_recording(item):
        return audio(item)
    pixels = channels_last(_on_host(item))
    if not isinstance(pixels, np.ndarray):
        return None
    if pixels.dtype == np.uint8 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        return image(pixels)
    raise PromptError(
        f"an array of {pixels.dtype} {list(pixels.shape)} could be several things; say which, as in pm.image(uint8 "
        "pixels [H, W, 3]), pm.audio((samples, rate)) or pm.array(numbers)"
    )


def is_recording(item: Any) -> bool:
    """Whether something is (samples, rate)."""
    pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Integral)
    return pair and isinstance(_on_host(item[0]), np.ndarray)


def media_of(item: Any) -> Media | Text:
    """Media where media are meant: as for `as_media`, and a str as the path of a file."""
    if isinstance(item, str):
        try:
            return media(item)
        except MediaError as problem:
            if "://" in item or os.path.exists(item):
                raise
            raise MediaError(f"{problem}; a str names a file here, a text is given as pm.text(...)") from None
    found = as_media(item)
    if found is None:
        raise PromptError(f"expected a path or media such as pm.image(...), found {type(item).__name__}")
    return found


def recording_of(item: Any) -> Audio:
    """A recording: media, a path, bytes or (samples, rate); of a video its sound.  Raises PromptError."""
    if isinstance(_on_host(item), np.ndarray):
        raise PromptError("samples need their rate; give (samples, rate), as in (samples, 16000)")
    found = audio(item) if isinstance(item, str | os.PathLike | bytes) else as_media(item)
    if isinstance(found, Video):
        found = found.sound or found
    if not isinstance(found, Audio):
        shown = type(item).__name__ if found is None else "a text" if isinstance(found, Text) else found
        raise PromptError(f"{shown} has no sound to transcribe; expected a recording: a path, bytes or (samples, rate)")
    return found


def channels_last(pixels: Any) -> Any:
    """uint8 [3, H, W], as torch and torchvision have pictures, as [H, W, 3]; anything else as it is."""
    if isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] not in (3, 4):
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return pixels


def _on_host(source: Any) -> Any:
    """A tensor as a numpy array; anything else as it is."""
    import torch

    if not isinstance(source, torch.Tensor):
        return source
    source = source.detach().cpu()
    return (source.float() if source.is_floating_point() else source).numpy()
