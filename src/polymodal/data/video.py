"""Reading videos: a few frames, chosen by time, out of a file of any length.

file -> timeline: every packet's timestamp, nothing decoded -> sampling times -> frames that are shown at those
times -> decoded in order, seeking to a key frame where that skips work -> only sampled frames are converted
and kept

Memory is bounded by the sampled frames: one array is allocated for them, and one undecided frame is held.

Traps: frame rates may vary and headers may lie, so frames are found by timestamp, never by index x rate; a
phone stores "turn by 90 degrees" beside the pixels; the first timestamp need not be 0 (times here start at
the first frame); after a seek a decoder may start late, which is noticed and undone by decoding from the
start.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polymodal.data.audio import stream_seconds
from polymodal.data.container import open_container
from polymodal.data.limits import DEFAULT_LIMITS, Limits, how_to_raise
from polymodal.data.ogg_pages import read_links
from polymodal.data.source import OpenFile, open_source, sniff
from polymodal.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VideoSource = str | os.PathLike[str] | bytes
MAX_FRAME_RATE = 1000  # frames a second, above which a timeline is taken for an attack
LEAST_PIXELS = 512 * 512  # of a frame in `Limits.decoded_pixels`: small ones cost their headers
_SEEKABLE = ("mp4", "matroska")  # formats with an index; others are decoded from the start
_STATES_LENGTH = ("mp4", "matroska", "avi")


class Clip(NamedTuple):
    """Sampled frames uint8 [F, H, W, 3] and their times, float64 [F] seconds from the first frame of the video."""

    frames: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Timeline:
    """When every frame of a stream is shown: sorted ticks int64 [n], those of key frames, and the end, in ticks."""

    ticks: np.ndarray
    keys: list[int]
    end: int
    tick: Fraction  # seconds

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return float((self.end - int(self.ticks[0])) * self.tick)


def read_video(
    source: VideoSource,
    *,
    fps: float | None = None,
    frames: int | None = None,
    times: Sequence[float] | None = None,
    max_side: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Clip:
    """Sample frames of a video at `fps` frames a second, or `frames` of them spread evenly, or those shown at `times`.

    fps: the frames shown at 0, 1/fps, 2/fps, ... seconds.  frames: the frames shown in the middle of each of
    that many equal parts.  times: seconds, never decreasing.  Frames repeat where fewer exist than are asked for.
    max_side: shrink so that neither side exceeds it (area average); so do frames that would be more than
    `limits.total_pixels` together.  Rotation stored in the file is applied.  Raises ConfigError unless exactly one of
    fps, frames and times is given; MediaError for what is not a video, is damaged, cut short or longer than
    `limits.seconds`, has frames above `limits.pixels`, or would give more than `limits.frames` frames.
    """
    given = [each for each in (fps, frames, None if times is None else len(times)) if each is not None]
    if len(given) != 1 or not given[0] > 0 or (max_side is not None and max_side < 1):
        raise ConfigError(
            f"read_video needs exactly one of fps, frames and times, and positive, found fps={fps}, frames={frames}, "
            f"times={times} and max_side={max_side}"
        )
    frames_at_least = len(times) if times is not None else frames or 0
    if frames_at_least > limits.frames:
        raise MediaError(
            f"{frames_at_least} frames were asked for, the limit is {limits.frames} "
            f"({how_to_raise('frames', frames_at_least)})"
        )
    with open_source(source, limits) as opened:
        format_name = sniff_video(opened)
        with open_container(opened, format_name, limits) as container:
            timeline = _scan(opened, format_name, container, limits)
        if fps is not None and timeline.seconds * fps > limits.frames:
            raise MediaError(
                f"{opened.name} is {timeline.seconds:.1f} s long, which at {fps:g} frames per second is more than "
                f"the limit of {limits.frames} frames (Limits.frames); take fewer frames per second"
            )
        indices = choose_frames(timeline, fps=fps, frames=frames, times=times)
        opened.file.seek(0)
        with open_container(opened, format_name, limits) as container:
            context = _stream(opened, container).codec_context
            side = side_within(len(indices), (context.width, context.height), limits, max_side)
            options = _DecodeOptions(limits, side, format_name in _SEEKABLE)
            _check_decoded(opened, frames_to_decode(timeline, indices, options.seekable), context, limits)
            pixels = _decode(opened, container, timeline, indices, options)
    return Clip(pixels, (timeline.ticks[indices] - timeline.ticks[0]) * float(timeline.tick))


def sniff_video(opened: OpenFile) -> str:
    """Format name of an opened video.  Raises MediaError for text and unknown formats."""
    format_name = sniff(opened.head)
    if format_name is None or format_name == "text":
        found = "plain text" if format_name else "an unknown format"
        raise MediaError(f"{opened.name} is not a video: expected mp4, webm, avi or the like, found {found}")
    return format_name


def track_kinds(source: VideoSource, limits: Limits = DEFAULT_LIMITS) -> frozenset[str]:
    """Which of "video" and "audio" a container holds; cover art is not video.  Raises MediaError."""
    with open_source(source, limits) as opened:
        format_name = sniff_video(opened)
        if format_name == "ogg" and (kinds := frozenset().union(*(link.kinds for link in read_links(opened, limits)))):
            return kinds
        opened.file.seek(0)
        with open_container(opened, format_name, limits) as container:
            return _kinds(container)


def _kinds(container: "InputContainer") -> frozenset[str]:
    moving = any(not is_cover_art(stream) for stream in container.streams.video)
    return frozenset((["video"] if moving else []) + (["audio"] if container.streams.audio else []))


def is_cover_art(stream: "VideoStream") -> bool:
    """True for the still picture that music files carry."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def video_seconds(source: VideoSource, limits: Limits = DEFAULT_LIMITS) -> float:
    """Length of a video by the times of its frames.  Raises MediaError as `read_video` does."""
    with open_source(source, limits) as opened:
        format_name = sniff_video(opened)
        with open_container(opened, format_name, limits) as container:
            return _scan(opened, format_name, container, limits).seconds


def frame_times(source: VideoSource, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """When each frame is shown, float64 [n] seconds from the first, for samplers that count frames: `read_video` gives
    frame i at `times=[frame_times(source)[i]]`.  Nothing is decoded.  Raises MediaError as `read_video` does."""
    with open_source(source, limits) as opened:
        format_name = sniff_video(opened)
        with open_container(opened, format_name, limits) as container:
            timeline = _scan(opened, format_name, container, limits)
    return (timeline.ticks - timeline.ticks[0]) * float(timeline.tick)


def side_within(count: int, size: tuple[int, int], limits: Limits, max_side: int | None) -> int | None:
    """`max_side`, or what it must be for `count` frames of this size to be no more than `limits.total_pixels`."""
    longest = max(size)
    side = min(longest, max_side or longest)
    while side > 1 and count * np.prod([max(1, round(each * side / longest)) for each in size]) > limits.total_pixels:
        side -= max(1, side // 64)
    return side if side < longest else max_side


def frames_at(seconds: float, fps: float) -> int:
    """How many frames `read_video(fps=...)` gives of a video of this length."""
    return max(1, int(np.ceil(seconds * fps - 1e-6)))


def choose_frames(
    timeline: Timeline, *, fps: float | None = None, frames: int | None = None, times: Sequence[float] | None = None
) -> np.ndarray:
    """Index into `timeline.ticks` of the frame shown at each sampling time, int64 [F], never decreasing."""
    chosen: np.ndarray
    if times is not None:
        chosen = np.asarray(times, np.float64)
    elif frames is not None:
        chosen = (np.arange(frames) + 0.5) * (timeline.seconds / frames)
    else:
        rate = float(fps or 1.0)
        chosen = np.arange(frames_at(timeline.seconds, rate)) / rate
    # Containers round timestamps to a tick (1 ms in Matroska), so a frame may be late by one.
    shown = (timeline.ticks - timeline.ticks[0]) * float(timeline.tick)
    return np.maximum(np.searchsorted(shown, chosen + float(timeline.tick), side="right") - 1, 0)


@dataclass(frozen=True)
class _DecodeOptions:
    limits: Limits
    max_side: int | None
    seekable: bool


def _stream(opened: OpenFile, container: "InputContainer") -> "VideoStream":
    for stream in container.streams.video:
        if not is_cover_art(stream):
            return stream
    raise MediaError(f"{opened.name} holds no moving pictures")


def _check_pixels(opened: OpenFile, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise MediaError(
            f"{opened.name} has frames of {width} x {height} = {width * height:,} pixels, the limit is "
            f"{limits.pixels:,} ({how_to_raise('pixels', width * height)})"
        )


def frames_to_decode(timeline: Timeline, indices: np.ndarray, seekable: bool) -> int:
    """How many frames must be decoded for those at `indices`, each from the key frame before it or the last one."""
    count, done = 0, -1
    keys = np.searchsorted(timeline.ticks, timeline.keys)
    for index in np.unique(indices):
        key = int(keys[place - 1]) if seekable and (place := np.searchsorted(keys, index, side="right")) else 0
        count += int(index) - max(done, key - 1)
        done = int(index)
    return count


def _check_decoded(opened: OpenFile, frames: int, size: "VideoFrame | VideoCodecContext", limits: Limits) -> None:
    """Raises MediaError for more than `Limits.decoded_pixels`; size: what has width and height."""
    pixels = frames * max(size.width * size.height, LEAST_PIXELS)
    if pixels > limits.decoded_pixels:
        raise MediaError(
            f"{opened.name}: {frames:,} frames of {size.width} x {size.height} must be decoded, that is {pixels:,} "
            f"pixels, the limit is {limits.decoded_pixels:,} ({how_to_raise('decoded_pixels', pixels)})"
        )


def _check_seconds(opened: OpenFile, seconds: float, limits: Limits) -> None:
    if seconds > limits.seconds:
        raise MediaError(
            f"{opened.name} is {seconds:.1f} s long, the limit is {limits.seconds:g} s "
            f"({how_to_raise('seconds', seconds)})"
        )


def _scan(opened: OpenFile, format_name: str, container: "InputContainer", limits: Limits) -> Timeline:
    """Read the timestamps of all packets without decoding any."""
    stream = _stream(opened, container)
    _check_pixels(opened, stream.codec_context.width, stream.codec_context.height, limits)
    claimed = stream_seconds(container, stream)
    _check_seconds(opened, claimed, limits)
    ticks: list[int] = []
    keys: list[int] = []
    length = 0
    for packet in container.demux(stream):
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is None or packet.is_discard:
            continue
        ticks.append(tick)
        length = packet.duration or 0
        if packet.is_keyframe:
            keys.append(tick)
        if len(ticks) > min(limits.seconds * MAX_FRAME_RATE, limits.pieces):
            raise MediaError(
                f"{opened.name} has more than {len(ticks) - 1:,} frames, the limit, or {MAX_FRAME_RATE} for each "
                f"permitted second ({how_to_raise('pieces', 2 * len(ticks))})"
            )
    if not ticks:
        raise MediaError(f"{opened.name} holds no frames")
    tick_seconds = stream.time_base or Fraction(1, 1000)
    ordered = np.unique(np.array(ticks, dtype=np.int64))
    typical = int(np.median(np.diff(ordered))) if len(ordered) > 1 else 0
    # Packets of AVI and MPEG-TS state one tick or a nominal length, whatever the real spacing.
    timeline = Timeline(ordered, sorted(keys), int(ordered[-1]) + max(length, typical, 1), tick_seconds)
    _check_seconds(opened, timeline.seconds, limits)
    # Matroska counts its length from time 0, wherever the first frame is.
    found = max(timeline.seconds, float(timeline.end * tick_seconds))
    if format_name in _STATES_LENGTH and found < claimed * 0.99 - 0.5:
        raise MediaError(f"{opened.name} is cut short: its header claims {claimed:.2f} s, found {found:.2f} s")
    return timeline


def _decode(
    opened: OpenFile, container: "InputContainer", timeline: Timeline, indices: np.ndarray, options: _DecodeOptions
) -> np.ndarray:
    """The frames at these indices, uint8 [F, H, W, 3]."""
    pixels: np.ndarray | None = None
    filled = 0
    targets = [int(tick) for tick in timeline.ticks[indices]]
    for tick, frame in _frames_at(opened, container, timeline, targets, options):
        picture = _to_rgb(opened, frame, options)
        if pixels is None:
            pixels = _allocate(opened, len(indices), picture, options.limits)
        elif picture.shape != pixels.shape[1:]:
            raise MediaError(f"{opened.name} changes its frame size on the way, from {pixels.shape[1:]}")
        while filled < len(targets) and targets[filled] <= tick:
            pixels[filled] = picture
            filled += 1
    if pixels is None or filled < len(targets):
        raise MediaError(f"{opened.name} is damaged: {filled} of the {len(targets)} frames could be decoded")
    return pixels


def _frames_at(
    opened: OpenFile, container: "InputContainer", timeline: Timeline, targets: list[int], options: _DecodeOptions
) -> Iterator[tuple[int, "VideoFrame"]]:
    """(target tick, frame shown then) for each distinct target, in order."""
    stream = _stream(opened, container)
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = 2
    # A stream may claim a larger size on the way; the decoder itself then refuses to allocate it.
    stream.codec_context.options = {"max_pixels": str(int(options.limits.pixels))}
    may_seek = options.seekable
    position = int(timeline.ticks[0])  # tick of the newest decoded frame
    current: VideoFrame | None = None  # the newest frame that is not after the next target
    frames, decoded = container.decode(stream), 0
    for tick in sorted(set(targets)):
        key_index = bisect_right(timeline.keys, tick)
        key = timeline.keys[key_index - 1] if key_index else None
        if may_seek and key is not None and key > position:
            container.seek(key, stream=stream, backward=True)
            frames, current = container.decode(stream), None
        pending: VideoFrame | None = None
        while current is None or _tick(current) < tick:
            frame = next(frames, None)
            if frame is None:
                break
            position, decoded = _tick(frame), decoded + 1
            _check_decoded(opened, decoded, frame, options.limits)
            if position > tick and current is not None:
                pending = frame
                break
            if position > tick and may_seek:
                # The seek went too far, or the key frame flag was wrong: go back to the very start, once.
                may_seek = False
                container.seek(int(timeline.ticks[0]), stream=stream, backward=True)
                frames = container.decode(stream)
                continue
            current = frame
        if current is None:
            return
        yield tick, current
        current = pending or current


def _tick(frame: "VideoFrame") -> int:
    stamp = frame.dts if frame.pts is None else frame.pts
    return 0 if stamp is None else stamp


def _to_rgb(opened: OpenFile, frame: "VideoFrame", options: _DecodeOptions) -> np.ndarray:
    """One frame as uint8 [H, W, 3], shrunk to max_side and turned upright."""
    _check_pixels(opened, frame.width, frame.height, options.limits)
    width, height = frame.width, frame.height
    if options.max_side is not None and max(width, height) > options.max_side:
        scale = options.max_side / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    shrink = "AREA" if width < frame.width else None
    picture = frame.reformat(width=width, height=height, format="rgb24", interpolation=shrink).to_ndarray()
    # FFmpeg states the angle counter-clockwise, which is also the sense of rot90.
    return np.rot90(picture, round(frame.rotation / 90) % 4) if frame.rotation % 90 == 0 else picture


def _allocate(opened: OpenFile, count: int, picture: np.ndarray, limits: Limits) -> np.ndarray:
    height, width, _ = picture.shape
    if count * height * width > limits.total_pixels:
        raise MediaError(
            f"{opened.name}: {count} frames of {width} x {height} are {count * height * width:,} pixels, the limit "
            f"is {limits.total_pixels:,} (Limits.total_pixels); take fewer frames or give max_side"
        )
    return np.empty((count, height, width, 3), dtype=np.uint8)
