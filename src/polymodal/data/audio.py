"""Reading recordings: any common file -> mono float32 at the rate a model wants.

wav flac ogg aiff au caf ... -> soundfile | what it does not know, mp3, anything else, and video containers -> PyAV
-> blocks [channels, n] -> checked (finite, within bounds) -> mean over channels -> resampled -> joined

`read_audio` gives a recording as a whole, `stream_audio` in blocks: each is reduced to one channel and the wanted rate
before the next is read.

Traps: libsndfile reads a truncated WAV without complaint, so the sizes in its header are compared with the file
(`sound_sizes.py`); the length in a header may be missing or a lie, so the bound is also enforced while decoding;
integer samples are scaled by 2^(bits - 1), floats are taken as they are and may exceed 1.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from polymodal.data.container import AUDIO_DECODERS, damaged, open_container
from polymodal.data.file_part import FilePart
from polymodal.data.limits import DEFAULT_LIMITS, Limits, how_to_raise
from polymodal.data.ogg_pages import Link, read_links
from polymodal.data.resample import BLOCK, Resampler
from polymodal.data.sound_sizes import with_true_size
from polymodal.data.source import SOUND_FORMATS, OpenFile, open_source, sniff
from polymodal.errors import MediaError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

AudioSource = str | os.PathLike[str] | bytes | tuple[np.ndarray, int]
MAX_CHANNELS = 64
MIN_RATE, MAX_RATE = 1_000, 768_000
SAMPLES_PER_BYTE = 16  # AAC of films has 4, speech in Opus 24; long silence in FLAC 1,000


def read_audio(source: AudioSource, rate: int, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Decode a recording, or the sound track of a video, to mono float32 [samples] at `rate` Hz.

    source: a path, the bytes of a file, or (samples, rate) with samples [n] or [channels, n].
    Raises MediaError for what is not a recording, is empty, damaged, cut short, longer than `limits.seconds`,
    or holds samples that are not finite.
    """
    pieces, count = [], 0
    for block in stream_audio(source, rate, limits):
        pieces.append(block)
        count += len(block)
        if count > limits.samples:
            raise MediaError(
                f"the recording has over {limits.samples:,} samples at {rate} Hz, the limit of what is held at once "
                f"({how_to_raise('samples', 2 * count)})"
            )
    return np.concatenate(pieces)


def stream_audio(source: AudioSource, rate: int, limits: Limits = DEFAULT_LIMITS) -> Iterator[np.ndarray]:
    """The same samples as blocks float32 [n], in memory that does not grow with the length of the recording.

    Raises MediaError as `read_audio` does, some of it only at the end.
    """
    if isinstance(source, tuple):
        samples, source_rate = _from_array(*source)
        spent = Spent("recording", limits)
        spent.claim(source_rate, samples.shape[0] if samples.ndim == 2 else 1, samples.shape[-1])
        blocks = (samples[..., start : start + BLOCK] for start in range(0, samples.shape[-1], BLOCK))
        yield from _mono_blocks(blocks, source_rate, rate, spent)
        spent.check_sound()
        return
    with open_source(source, limits) as opened:
        format_name = sniff(opened.head)
        if format_name is None or format_name == "text":
            found = "plain text" if format_name else "an unknown format"
            raise MediaError(f"{opened.name} is not a recording: expected wav, flac, mp3 or the like, found {found}")
        # libmpg123, with which libsndfile reads MP3, stops at the end of the first of several that were joined.
        read = _stream_sound_file if format_name in SOUND_FORMATS - {"mp3"} else _stream_container
        yield from read(opened, format_name, rate, limits)


class Spent:
    """What decoding a recording has cost so far, held against the limits; over all parts of a chained file.

    size: bytes of the file.  A file may hold the samples that its bytes can really hold, whatever the limit says: films
    have six channels for hours, and only what was made for it has more than SAMPLES_PER_BYTE.
    """

    def __init__(self, name: str, limits: Limits, size: int = 0) -> None:
        self._name, self._limits = name, limits
        self._most = max(limits.decoded_samples, SAMPLES_PER_BYTE * size)
        self._seconds, self._samples = 0.0, 0

    def claim(self, rate: int, channels: int, samples: int) -> None:
        """What the header says of (the next part of) the recording; samples: of each channel.  Raises MediaError."""
        if not MIN_RATE <= rate <= MAX_RATE:
            raise MediaError(f"{self._name} has a sampling rate of {rate} Hz, expected {MIN_RATE} to {MAX_RATE} Hz")
        seconds = self._seconds + samples / rate
        if seconds > self._limits.seconds:
            raise MediaError(
                f"{self._name} is {seconds:.1f} s long, the limit is {self._limits.seconds:g} s "
                f"({how_to_raise('seconds', seconds)})"
            )
        self._check_samples(self._samples + samples * channels)

    def add(self, block: np.ndarray, rate: int) -> None:
        """A block [n] or [channels, n] that was decoded.  Raises MediaError."""
        self._seconds += block.shape[-1] / rate
        self._samples += block.size
        limit = self._limits.seconds
        if self._seconds > limit + 1e-6:
            raise MediaError(
                f"{self._name} is longer than the limit of {limit:g} s ({how_to_raise('seconds', 2 * limit)})"
            )
        self._check_samples(self._samples)
        if not np.isfinite(block).all():
            raise MediaError(f"{self._name} holds samples that are not finite numbers (NaN or infinity)")

    def check_sound(self) -> None:
        """Raises MediaError when nothing was decoded."""
        if self._samples == 0:
            raise MediaError(f"{self._name} holds no sound (0 samples)")

    def _check_samples(self, count: int) -> None:
        if count > self._most:
            raise MediaError(
                f"{self._name} has {count:,} samples in all its channels, "
                f"the limit of what is decoded is {self._most:,} ({how_to_raise('decoded_samples', 2 * count)})"
            )


def _mono_blocks(blocks: Iterator[np.ndarray], old: int, new: int, spent: Spent) -> Iterator[np.ndarray]:
    """Blocks [n] or [channels, n] at `old` Hz -> mono blocks [m] at `new` Hz, checked on the way."""
    resampler = Resampler(old, new)
    waiting: list[np.ndarray] = []  # many channels come in short blocks, which are joined: each push has a cost
    for block in blocks:
        spent.add(block, old)
        if block.ndim == 2:
            # The mean as a product: eight times as fast as `mean` over strided channels.
            block = block[0] if len(block) == 1 else np.full(len(block), 1 / len(block), np.float32) @ block
        waiting.append(block)
        if sum(map(len, waiting)) >= BLOCK:
            yield resampler.push(np.ascontiguousarray(np.concatenate(waiting)))
            waiting.clear()
    if waiting:
        yield resampler.push(np.ascontiguousarray(np.concatenate(waiting)))
    yield resampler.finish()


def _from_array(samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """Check and scale an array of samples; float32 [n] or [channels, n]."""
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[0] <= MAX_CHANNELS):
        raise MediaError(f"samples must be [n] or [channels, n], found shape {list(samples.shape)}")
    if not isinstance(rate, (int, np.integer)) or isinstance(rate, bool):
        raise MediaError(f"the sampling rate must be a whole number of Hz, found {rate!r}")
    if samples.dtype.kind == "f":
        return samples.astype(np.float32), int(rate)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0, int(rate)
    if samples.dtype.kind == "i":
        return (samples / 2.0 ** (8 * samples.dtype.itemsize - 1)).astype(np.float32), int(rate)
    raise MediaError(f"samples must be floats in [-1, 1], signed integers or uint8, found {samples.dtype}")


def _stream_sound_file(opened: OpenFile, format_name: str, rate: int, limits: Limits) -> Iterator[np.ndarray]:
    import soundfile

    links = read_links(opened, limits) if format_name == "ogg" else [Link(0, opened.size)]
    opened, has_begun, spent = with_true_size(opened, format_name), False, Spent(opened.name, limits, opened.size)
    try:
        for link in links:
            with soundfile.SoundFile(FilePart(opened.file, link.start, link.end - link.start)) as sound:
                if not 1 <= sound.channels <= MAX_CHANNELS:
                    raise MediaError(f"{opened.name} has {sound.channels} channels, expected 1 to {MAX_CHANNELS}")
                spent.claim(sound.samplerate, sound.channels, max(0, sound.frames))
                blocks = _sound_blocks(sound, opened.name, format_name)
                for block in _mono_blocks(blocks, sound.samplerate, rate, spent):
                    has_begun = True
                    yield block
        spent.check_sound()
        return
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        if has_begun:
            raise damaged(opened, format_name) from error
    # A codec or a variant that libsndfile does not know, or an Ogg that is a video.
    opened.file.seek(0)
    yield from _stream_container(opened, format_name, rate, limits)


def _sound_blocks(sound, name: str, format_name: str) -> Iterator[np.ndarray]:
    """Blocks [channels, n]; a file with fewer samples than its header claims is refused at the end."""
    claimed, count = sound.frames, 0
    # Fewer samples a block when there are many channels, so that a block stays small.
    size = max(1024, BLOCK // sound.channels)
    while len(block := sound.read(size, dtype="float32", always_2d=True)):
        count += len(block)
        yield block.T
    if format_name == "flac" and count < claimed:
        raise MediaError(
            f"{name} is cut short: its header claims {claimed / sound.samplerate:.2f} s, "
            f"found {count / sound.samplerate:.2f} s"
        )


def _stream_container(opened: OpenFile, format_name: str, rate: int, limits: Limits) -> Iterator[np.ndarray]:
    count, spent = 0, Spent(opened.name, limits, opened.size)
    with open_container(opened, format_name, limits) as container:
        if not container.streams.audio:
            raise MediaError(f"{opened.name} has no sound track")
        stream = container.streams.audio[0]
        codec = stream.codec_context.name if stream.codec_context is not None else "an unknown codec"
        if codec not in AUDIO_DECODERS:
            raise MediaError(
                f"{opened.name}: its sound is encoded as {codec}, which is not supported; convert it to WAV first"
            )
        source_rate = stream.codec_context.sample_rate
        # An MP3 states no length: FFmpeg guesses one from its first frames.
        claimed = 0.0 if format_name == "mp3" else stream_seconds(container, stream)
        spent.claim(source_rate, max(1, stream.codec_context.channels), int(claimed * source_rate))
        frames = _decoded(container, stream, forgiving=format_name == "mp3")
        for block in _mono_blocks(_container_blocks(frames, source_rate), source_rate, rate, spent):
            count += len(block)
            yield block
        spent.check_sound()
    # Headers round and codecs pad; only a clear shortage means that the file was cut.
    if format_name in ("mp4", "avi", "asf") and count / rate < claimed * 0.99 - 0.5:
        raise MediaError(
            f"{opened.name} is cut short: its header claims {claimed:.2f} s of sound, found {count / rate:.2f} s"
        )


def stream_seconds(container: "InputContainer", stream) -> float:
    """Length that the header claims, in seconds; 0 when it claims none."""
    if stream.duration is not None and stream.time_base is not None:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0.0, (container.duration or 0) / 1e6)


def _decoded(container: "InputContainer", stream: "AudioStream", forgiving: bool) -> Iterator["AudioFrame"]:
    """The frames of a stream; forgiving: what is no sound between them (tags of files that were joined) is passed."""
    import av

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            if not forgiving:
                raise


def _container_blocks(frames: Iterator["AudioFrame"], rate: int) -> Iterator[np.ndarray]:
    """Frames of any kind as blocks float32 [channels, n] at `rate` Hz."""
    import av

    planar, kind = None, None
    for frame in frames:
        if not 1 <= frame.layout.nb_channels <= MAX_CHANNELS:
            raise MediaError(
                f"the sound track has {frame.layout.nb_channels} channels, at most {MAX_CHANNELS} are read"
            )
        found = frame.format.name, frame.layout.name, frame.sample_rate
        if planar is None or found != kind:  # files that were joined may differ
            planar, kind = av.AudioResampler(format="fltp", rate=rate), found
        for piece in planar.resample(frame):
            yield piece.to_ndarray()
