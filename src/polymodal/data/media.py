"""Media records: objects that hold a source and decode it once, on first use.

Image -> picture (RGB) | Audio -> samples at a rate | Video -> sampled frames, and its sound as Audio
Array -> numbers of another sensor or model: point clouds, motion, features | Text

Each says which modality it is (`modality`), so a picture may be one of depth or heat; a system's own file may bring a
record of its own, a subclass of Media.
Making a record opens nothing and imports no media library.  `guess_media` chooses the record for a file by its
content, for the command line.

Traps: what is decoded is kept for the record (within bounds, `kept.py`) and shared by everyone who asks, so nobody may
write into it;
hashes are taken over what was decoded, together with its mode and size, because equal files of pixels may
differ in palette and a hash that a sender states cannot be trusted.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from polymodal.data.kept import DECODED
from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.source import (
    CONTAINER_FORMATS,
    IMAGE_FORMATS,
    SOUND_FORMATS,
    clean_name,
    looks_like_text,
    open_source,
    sniff,
)
from polymodal.errors import MediaError, PromptError

_KEPT_SECONDS = 600  # of a recording that is read in blocks, so that a short one is decoded once

if TYPE_CHECKING:
    from PIL import Image as Pillow

    from polymodal.data.video import Clip


@dataclass(frozen=True)
class Text:
    """Text of the user, as typed: special tokens in it stay plain text.  Raises PromptError for what is not Unicode."""

    text: str

    def __post_init__(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            # A program that was given bytes in another encoding holds them as lone surrogates.
            shown = clean_name(self.text[max(0, error.start - 20) : error.end + 20])
            raise PromptError(f"the text is not valid UTF-8 near {shown!r}; is it in another encoding?") from None


class Media:
    """What every record of media is.  modality: the one it enters a model as (`data/modalities.py`).

    mime: the first word of the type that a `data:` URL of it has; "" where there is none.
    """

    modality: str
    mime: ClassVar[str] = ""


@dataclass(frozen=True, repr=False)
class Image(Media):
    """A picture: a path, the bytes of a file, a Pillow image, or uint8 [H, W], [H, W, 3], [H, W, 4].

    background: colour 0..255 that shows through transparent pixels.
    """

    source: Any
    limits: Limits = DEFAULT_LIMITS
    background: tuple[int, int, int] = (255, 255, 255)
    modality: str = field(default="image", kw_only=True)
    mime: ClassVar[str] = "image"

    @property
    def picture(self) -> "Pillow.Image":
        """The decoded picture, mode RGB.  Raises MediaError as `read_image` does."""
        from polymodal.data.image import read_image

        def decode() -> "Pillow.Image":
            return read_image(self.source, self.limits, self.background)

        return DECODED.once(self, "picture", decode, lambda picture: 3 * picture.width * picture.height)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over mode, size and pixels, in hexadecimal."""
        picture = self.picture
        return _digest(f"image {picture.mode} {picture.size}", picture.tobytes())

    def __repr__(self) -> str:
        return f"Image({_describe(self.source)})"


@dataclass(frozen=True, repr=False)
class Audio(Media):
    """A recording: a path, the bytes of a file, or (samples, rate) with samples [n] or [channels, n].

    A video file is a source too; its first sound track is read.
    """

    source: Any
    limits: Limits = DEFAULT_LIMITS
    modality: str = field(default="audio", kw_only=True)
    mime: ClassVar[str] = "audio"

    def samples(self, rate: int) -> np.ndarray:
        """Mono float32 [n] at `rate` Hz, decoded once for each rate.  Raises MediaError as `read_audio` does."""
        from polymodal.data.audio import read_audio

        return DECODED.once(
            self, rate, lambda: read_audio(self.source, rate, self.limits), lambda samples: samples.nbytes
        )

    def blocks(self, rate: int) -> Iterator[np.ndarray]:
        """The same samples as blocks float32 [n]; those of a long recording are not kept.

        Raises MediaError as `stream_audio` does.
        """
        from polymodal.data.audio import stream_audio

        if (samples := DECODED.get(self, rate)) is not None:
            yield samples
            return
        pieces: list[np.ndarray] = []
        count = 0
        for block in stream_audio(self.source, rate, self.limits):
            count += len(block)
            if count <= _KEPT_SECONDS * rate:
                pieces.append(block)
            else:
                pieces.clear()
            yield block
        if pieces:
            samples = np.concatenate(pieces)
            DECODED.put(self, rate, samples, samples.nbytes)

    def content_hash(self, rate: int) -> str:
        """SHA-256 over the rate and the samples at that rate, in hexadecimal."""
        digest = hashlib.sha256(f"audio float32 {rate}".encode() + b"\0")
        for block in self.blocks(rate):
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"Audio({_describe(self.source)})"


@dataclass(frozen=True, repr=False)
class Video(Media):
    """A video: a path or the bytes of a file."""

    source: Any
    limits: Limits = DEFAULT_LIMITS
    modality: str = field(default="video", kw_only=True)
    mime: ClassVar[str] = "video"

    def clip(
        self,
        *,
        fps: float | None = None,
        frames: int | None = None,
        times: Sequence[float] | None = None,
        max_side: int | None = None,
    ) -> "Clip":
        """Frames uint8 [F, H, W, 3] and their times, decoded once for each way of sampling; see `read_video`."""
        from polymodal.data.video import read_video

        key = (fps, frames, None if times is None else tuple(times), max_side)

        def decode() -> "Clip":
            return read_video(self.source, fps=fps, frames=frames, times=times, max_side=max_side, limits=self.limits)

        return DECODED.once(self, key, decode, lambda clip: clip.frames.nbytes)

    @cached_property
    def seconds(self) -> float:
        """Length; only timestamps are read."""
        from polymodal.data.video import video_seconds

        return video_seconds(self.source, self.limits)

    @cached_property
    def frame_times(self) -> np.ndarray:
        """When each frame is shown, float64 [n] seconds from the first; only timestamps are read."""
        from polymodal.data.video import frame_times

        return frame_times(self.source, self.limits)

    def content_hash(self, *, fps: float | None = None, frames: int | None = None, max_side: int | None = None) -> str:
        """SHA-256 over shape, times and pixels of the frames sampled so, in hexadecimal."""
        clip = self.clip(fps=fps, frames=frames, max_side=max_side)
        return _digest(f"video RGB {clip.frames.shape} {clip.seconds.tolist()}", clip.frames)

    @cached_property
    def sound(self) -> Audio | None:
        """The sound track as a recording of its own, or None when the file has none."""
        from polymodal.data.video import track_kinds

        return Audio(self.source, self.limits) if "audio" in track_kinds(self.source, self.limits) else None

    def __repr__(self) -> str:
        return f"Video({_describe(self.source)})"


@dataclass(frozen=True, repr=False)
class Array(Media):
    """Numbers that are no picture, sound or video: point clouds, motion, features of any width.

    source: an array, a tensor, nested lists of numbers, or a path or the bytes of a .npy file.  modality "": the one
    that a model takes as numbers, where it takes only one.
    """

    source: Any
    limits: Limits = DEFAULT_LIMITS
    modality: str = field(default="", kw_only=True)

    @cached_property
    def values(self) -> np.ndarray:
        """The numbers: float32, or whole numbers as they are.  Raises MediaError as `read_array` does."""
        from polymodal.data.array import read_array

        return read_array(self.source, self.limits)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over type, shape and values, in hexadecimal."""
        return _digest(f"array {self.values.dtype} {self.values.shape}", self.values)

    def __repr__(self) -> str:
        return f"Array({_describe(self.source)}{f', {self.modality}' if self.modality else ''})"


DOCUMENTS = (
    (b"%PDF-", "a PDF, which is not read; save its pages as pictures first (pdftoppm -png FILE page)"),
    (
        b"PK\x03\x04",
        "a ZIP archive or an office document, which is not read; give the files inside, or save it as text",
    ),
)
"""First bytes of files that people give and that no model reads -> what is said of them."""


def guess_media(path: str | os.PathLike[str] | bytes, limits: Limits = DEFAULT_LIMITS) -> Media | Text:
    """The record for a file, by its content; its extension is never looked at.

    A GIF is an Image; a container is a Video when it holds moving pictures, an Audio when it holds only
    sound; a .npy file is an Array; any other file that is UTF-8 throughout is Text.  Raises MediaError for anything
    else.
    """
    with open_source(path, limits) as opened:
        format_name = sniff(opened.head)
        if format_name == "text":
            data = opened.file.read(limits.bytes)
            if not looks_like_text(data):
                raise MediaError(f"{opened.name} begins as text but goes on as binary data")
            return Text(data.decode("utf-8", errors="replace"))
        name, head = opened.name, opened.head
    if format_name in IMAGE_FORMATS:
        return Image(path, limits)
    if format_name == "npy":
        return Array(path, limits)
    if format_name in SOUND_FORMATS and format_name != "ogg":
        return Audio(path, limits)
    if format_name == "ogg" or format_name in CONTAINER_FORMATS:
        from polymodal.data.video import track_kinds

        kinds = track_kinds(path, limits)
        if kinds:
            return Video(path, limits) if "video" in kinds else Audio(path, limits)
        raise MediaError(f"{name} holds neither pictures nor sound")
    for magic, known in DOCUMENTS:
        if head.startswith(magic):
            raise MediaError(f"{name} is {known}")
    raise MediaError(f"{name} is not a picture, recording, video, array or text in a supported format")


def _digest(header: str, data: bytes | np.ndarray) -> str:
    digest = hashlib.sha256(header.encode() + b"\0")
    digest.update(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data)
    return digest.hexdigest()


def _describe(source: Any) -> str:
    """A source for `repr`: short, without the data itself."""
    if isinstance(source, (str, os.PathLike)):
        return repr(clean_name(Path(source).name))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source):,} bytes"
    if isinstance(source, tuple):
        return ", ".join(_describe(item) if isinstance(item, np.ndarray) else str(item) for item in source)
    if isinstance(source, np.ndarray):
        return f"{source.dtype} {list(source.shape)}"
    return type(source).__name__
