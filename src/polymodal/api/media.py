"""`pm.image`, `pm.audio`, `pm.video`, `pm.array`, `pm.text` and `pm.media`: what a model is asked about.

Each gives a small record; nothing is decoded before a model needs it.  limits: how large the file may be; by default
as POLYMODAL_LIMITS says (data/limits.py).
"""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path
from typing import Any

from polymodal.data.limits import Limits, own_limits
from polymodal.data.media import Array, Audio, Image, Media, Text, Video, guess_media
from polymodal.errors import MediaError

MAX_TEXT = 200_000
MEDIA_TYPES = ("image", "audio", "video")


def image(source: Any, modality: str = "image", *, limits: Limits | None = None) -> Image:
    """A picture: a path, the bytes of a file, or a PIL image.  modality: "depth" or "thermal" for one of those."""
    return Image(source, limits or own_limits(), modality=modality)


def audio(source: Any, *, limits: Limits | None = None) -> Audio:
    """A recording: a path, the bytes of a file, or (samples, rate)."""
    return Audio(source, limits or own_limits())


def video(source: Any, *, limits: Limits | None = None) -> Video:
    """A video: a path or the bytes of a file."""
    return Video(source, limits or own_limits())


def array(source: Any, modality: str = "", *, limits: Limits | None = None) -> Array:
    """Numbers: an array, a tensor, nested lists, a path or the bytes of a .npy file.

    modality: "imu", "point_cloud", "features" or one of a system's own; may be left out where a model takes one only.
    """
    return Array(source, limits or own_limits(), modality=modality)


def text(words: str) -> Text:
    """Text of the user; special tokens typed in it stay plain text."""
    return Text(words)


def media(path: str | os.PathLike[str], *, limits: Limits | None = None) -> Media | Text:
    """The file as what it holds: a picture, recording, video, array (.npy) or text; raises MediaError.

    Contents decide, not the extension; but text under a media extension (a web page saved as photo.jpg) is a
    mistake and is refused.
    """
    file = Path(path)
    found = guess_media(file, limits or own_limits())
    if not isinstance(found, Text):
        return found
    claimed = (mimetypes.guess_type(file.name)[0] or "").partition("/")[0]
    if claimed in MEDIA_TYPES:
        raise MediaError(f"{file.name} holds plain text although its name says {claimed}; is it a failed download?")
    if len(found.text) > MAX_TEXT:
        raise MediaError(f"{file.name} has {len(found.text):,} characters of text, the limit is {MAX_TEXT:,}")
    return found
