"""Opening MP4, Matroska, AVI and the like with PyAV, without giving FFmpeg anything it could misuse.

FFmpeg receives our file object, one demuxer family that matches the magic bytes, and a list of decoders.  No
protocol is allowed, so a playlist or a reference inside a file cannot make it open a second file or a network
address.  Native error text is never passed on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from polymodal.data.file_part import part_of
from polymodal.data.limits import Limits
from polymodal.data.matroska_tags import check_tags
from polymodal.data.mp4_tables import check_mp4
from polymodal.data.ogg_pages import read_links
from polymodal.data.source import OpenFile, sniff
from polymodal.errors import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer

_MAX_TAGS = 1000
# FFmpeg's demuxer names for what `sniff` announces.
_DEMUXERS = {
    "mp4": "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska": "matroska,webm",
    "avi": "avi",
    "mpegts": "mpegts",
    "mpeg": "mpeg,mpegvideo",
    "flv": "flv",
    "asf": "asf",
    "ogg": "ogg",
    "mp3": "mp3,aac,flac",  # an ID3 tag may stand before any of them
    "aac": "aac",
    "amr": "amr,amrnb,amrwb",
    "wavpack": "wv",
    "ape": "ape",
    "tta": "tta",
    "au": "au",
    "caf": "caf",
    "w64": "w64",
    "nist": "nistsphere",
    "voc": "voc",
    "svx": "iff",
    "ircam": "ircam",
    "avr": "avr",
    "paf": "paf",
    "pvf": "pvf",
    "wav": "wav",
    "flac": "flac",
    "aiff": "aiff",
    "gif": "gif",
}
_VIDEO_DECODERS = (
    "h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video",
    "h263", "mjpeg", "theora", "prores", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "flv", "gif", "ffv1",
)  # fmt: skip
AUDIO_DECODERS = (
    "aac", "mp3float", "mp3", "mp2", "mp2float", "opus", "libopus", "vorbis", "flac", "alac", "ac3", "eac3",
    "wmav1", "wmav2", "amrnb", "amrwb", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le",
    "pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw",
    "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_yamaha", "g722", "g726", "g726le", "g723_1", "gsm", "gsm_ms",
    "truespeech", "speex", "dca", "ape", "wavpack", "tta", "mace3", "mace6", "qdm2", "qdmc", "8svx_exp", "8svx_fib",
)  # fmt: skip


@contextmanager
def open_container(opened: OpenFile, format_name: str, limits: Limits) -> Iterator["InputContainer"]:
    """Open a container whose magic bytes said `format_name`; what goes wrong inside is a MediaError.

    Before that, what its tables claim is held against the limits.
    """
    import av

    if format_name not in _DEMUXERS:
        raise MediaError(f"{opened.name} is not a recording or video: found {format_name} data")
    opened = _checked(opened, format_name, limits)
    options = {
        "format_whitelist": _DEMUXERS[format_name],
        "codec_whitelist": ",".join(_VIDEO_DECODERS + AUDIO_DECODERS),
        "protocol_whitelist": "none",
    }
    # A few frames are too little for FFmpeg to be sure of MPEG audio.
    known = "mp3" if format_name == "mp3" and sniff(opened.head) == "mp3" else None
    try:
        with av.open(opened.file, "r", known, options=options, metadata_errors="replace") as container:
            yield container
    except MediaError:
        raise
    except Exception as error:
        # PyAV raises FFmpegError, but also ValueError, EOFError, OverflowError, ... on damaged files.
        raise damaged(opened, format_name) from error


def _checked(opened: OpenFile, format_name: str, limits: Limits) -> OpenFile:
    """The file as FFmpeg may have it."""
    if format_name == "mp4":
        check_mp4(opened, limits)
    elif format_name == "ogg":
        read_links(opened, limits)
    elif format_name == "matroska":
        check_tags(opened, limits)
    elif format_name == "mp3":
        return _behind_tags(opened)
    opened.file.seek(0)
    return opened


def _behind_tags(opened: OpenFile) -> OpenFile:
    """The file without the ID3 tags that it begins with: titles, pictures, lyrics."""
    start = 0
    for _ in range(_MAX_TAGS):
        opened.file.seek(start)
        head = opened.file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            return part_of(opened, min(start, opened.size), opened.size)
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        start += 10 + size + (10 if head[5] & 0x10 else 0)
    raise MediaError(f"{opened.name} is damaged: it begins with more than {_MAX_TAGS} ID3 tags")


def damaged(opened: OpenFile, format_name: str) -> MediaError:
    """The error for data that the decoder gave up on."""
    return MediaError(f"{opened.name} is damaged or cut short: its {format_name} data cannot be decoded")
