"""Media that are small as files and large as work: each is refused, or read, in bounded time and memory.

Every bomb is made here.  What is refused names the limit that lets a file of one's own pass.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from polymodal.cli.inputs import is_media
from polymodal.data.limits import Limits
from polymodal.data.media import Audio, Image, Video, guess_media
from polymodal.errors import MediaError

SECONDS, MEGABYTES = 10, 300  # of one bomb, on a busy machine


def use(data: bytes, limits: Limits | None = None) -> object:
    """Decode what a file holds, as a model would."""
    media = guess_media(data, limits or Limits())
    if isinstance(media, Image):
        return media.picture.size
    if isinstance(media, Audio):
        return sum(map(len, media.blocks(16_000)))
    return media.clip(frames=4).frames.shape if isinstance(media, Video) else media


def jpeg(scans: int, side: int = 3000) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Pillow.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def jpeg_exif(pieces: int) -> bytes:
    """Exif data in pieces of 64 kB."""
    buffer = io.BytesIO()
    Pillow.new("L", (8, 8)).save(buffer, "JPEG")
    piece = b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65533 - 6)
    return b"\xff\xd8" + piece * pieces + buffer.getvalue()[2:]


def png(*extra: bytes, side: int = 16, pixels: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packed = zlib.compress(pixels or bytes((side + 1) * side), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    texts = b"".join(chunk(each[:4], each[4:]) for each in extra)
    return b"\x89PNG\r\n\x1a\n" + head + texts + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def unpacking(size: int) -> bytes:
    """Zeros that unpack to `size` bytes."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def frames(kind: str, count: int = 300) -> bytes:
    """An animation or a document of many pages."""
    pictures = [Pillow.new("L", (64, 64), index % 256) for index in range(count)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def gif_frame_beyond_its_screen() -> bytes:
    return b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2\x4c\1\0;"


def flac(channels: int, seconds: int) -> bytes:
    """A FLAC of silence whose header claims `seconds`."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((48_000, channels), np.int16), 48_000, format="FLAC")
    data = bytearray(buffer.getvalue())
    data[22:26] = (48_000 * seconds & 0xFFFFFFFF).to_bytes(4, "big")  # of 36 bits; the first 4 stay 0
    return bytes(data)


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def mp4(tables: bytes, behind: bytes = b"", handler: bytes = b"vide") -> bytes:
    """An MP4 of one track with these boxes in its sample table."""
    entry = box(b"jpeg", bytes(6), struct.pack(">H", 1), bytes(16), struct.pack(">HH", 64, 64), bytes(50))
    table = box(b"stbl", box(b"stsd", struct.pack(">II", 0, 1), entry), tables)
    media = box(b"mdia", box(b"hdlr", bytes(8), handler, bytes(13)), box(b"minf", table))
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", box(b"trak", media)) + behind + box(b"mdat", bytes(1000))


def sample_table(count: int) -> bytes:
    return b"".join(
        [
            box(b"stts", struct.pack(">IIII", 0, 1, count, 2)),
            box(b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1)),
            box(b"stsz", struct.pack(">III", 0, 1, count)),
            box(b"stco", struct.pack(">III", 0, 1, 32)),
        ]
    )


def fragment(count: int) -> bytes:
    return box(b"moof", box(b"traf", *[box(b"trun", struct.pack(">II", 0, count))] * 5))


def video(size: int, repeats: int, kind: str = "matroska", rate: int = 30) -> bytes:
    """A video of one picture, whose second packet is repeated."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as output:
        stream = output.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        packets = []
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((size * 3 // 2, size), np.uint8), format="yuv420p")
            frame.pts = index
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[0].pts = packets[0].dts = 0
        output.mux(packets[0])
        body = bytes(packets[1])
        for index in range(1, repeats):
            packet = av.Packet(body)
            packet.stream, packet.time_base = stream, Fraction(1, rate)
            packet.pts = packet.dts = index
            output.mux(packet)
    return buffer.getvalue()


def ogg(seconds: int, rate: int = 16_000, subtype: str = "VORBIS") -> bytes:
    buffer = io.BytesIO()
    tone = np.sin(np.arange(rate * seconds) / 20)
    soundfile.write(buffer, tone, rate, format="OGG", subtype=subtype)
    return buffer.getvalue()


def mp3(seconds: int, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(rate * seconds) / 20), rate, format="MP3")
    return buffer.getvalue()


def ogg_comments(megabytes: int) -> bytes:
    """An Ogg that goes on with comments for ever: pages on which no packet ends."""
    first = ogg(1)[:58]
    page = b"OggS\0\0" + b"\xff" * 8 + first[14:18] + bytes(8) + b"\xff" + b"\xff" * 255 + b"x" * 255 * 255
    return first + page * (megabytes * 16)


def id3(tags: int) -> bytes:
    return b"ID3\3\0\0\0\0\0\0" * tags + mp3(1)


def mkv_tags(megabytes: int) -> bytes:
    """A Matroska file with tags of 16 bytes."""

    def element(name: bytes, body: bytes) -> bytes:
        return name + b"\1" + len(body).to_bytes(7, "big") + body

    tag = b"\x67\xc8\x8d\x45\xa3\x84\x00\x00\x00\x00\x44\x87\x81\x61"
    tags = b"".join(tag.replace(bytes(4), struct.pack(">I", number)) for number in range(megabytes << 16))
    head = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"matroska"))
    return head + element(b"\x18\x53\x80\x67", element(b"\x12\x54\xc3\x67", element(b"\x73\x73", tags)))


def wav(channels: int, rate: int, claimed: int) -> bytes:
    layout = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels & 0xFFFFFFFF, channels, 8)
    return b"RIFF" + bytes(4) + b"WAVEfmt " + layout + b"data" + struct.pack("<I", claimed) + bytes(1000)


def tiff_of_one_tile() -> bytes:
    """A TIFF of 16 x 16 pixels in a tile of 65,520 x 65,520."""
    size, deflated = 65_520, zlib.compress(bytes(1000))
    entries = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, size), (323, size)]
    entries += [(324, 200), (325, len(deflated))]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return (struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(4)).ljust(200, b"\0") + deflated


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg of 1,500 scans": (lambda: jpeg(1500), "Limits.scans"),
    "jpeg with 100 MB of Exif": (lambda: jpeg_exif(1600), "Limits.metadata"),
    "png of more pixels than it says": (lambda: png(pixels=bytes(100_000_000)), ""),
    "png with texts that unpack to 4 GB": (lambda: png(*[b"zTXta\0\0" + unpacking(1 << 27)] * 32), ""),
    "png with 2,000 texts": (lambda: png(*[b"zTXta\0\0" + unpacking(1 << 17)] * 2000), ""),
    "png with a profile of 64 MB": (lambda: png(b"iCCPa\0\0" + unpacking(1 << 26)), ""),
    "png of 300,000 chunks": (lambda: png(*[b"vpAg"] * 300_000), "Limits.pieces"),
    "gif of many frames": (lambda: frames("GIF"), ""),
    "apng of many frames": (lambda: frames("PNG"), ""),
    "webp of many frames": (lambda: frames("WEBP"), ""),
    "tiff of many pages": (lambda: frames("TIFF"), ""),
    "gif with a frame beyond its screen": (gif_frame_beyond_its_screen, "damaged"),
    "tiff with a huge tile": (tiff_of_one_tile, "damaged"),
    "flac of two hours in 8 channels": (lambda: flac(8, 7200), "Limits.decoded_samples"),
    "flac of an hour in 8 channels": (lambda: flac(8, 3600), "Limits.decoded_samples"),
    "wav of 64 channels at 768 kHz": (lambda: wav(64, 768_000, 1 << 30), "cut short"),
    "wav at 4 GHz": (lambda: wav(1, 4_000_000_000, 1000), "sampling rate|damaged"),
    "wav with a rate far from any": (lambda: wav(1, 700_001, 1000), "simple ratio"),
    "mp4 of 50 million samples": (lambda: mp4(sample_table(50_000_000)), "Limits.pieces"),
    "mp4 of sound of 50 million": (lambda: mp4(sample_table(50_000_000), handler=b"soun"), "Limits.pieces"),
    "mp4 with fragments of 50 million": (lambda: mp4(b"", fragment(10_000_000)), "Limits.pieces"),
    "video of 900 frames of 4,000 x 4,000": (lambda: video(4000, 900), "Limits.decoded_pixels"),
    "video of a million frames a second": (lambda: video(16, 3000, rate=1_000_000), ""),
    "ogg with 40 MB of comments": (lambda: ogg_comments(40), "Limits.metadata"),
    "mp3 behind 100,000 ID3 tags": (lambda: id3(100_000), "ID3"),
    "matroska with 4 MB of tags": (lambda: mkv_tags(4), "Limits.metadata"),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', ""),
}

# A twentieth of the default, so that the bomb is made quickly.
SMALLER = {
    "png of 300,000 chunks": Limits(pieces=100_000),
    "video of 900 frames of 4,000 x 4,000": Limits(decoded_pixels=10_000_000_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little(attack, name):
    make, message = BOMBS[name]
    data = make()
    with attack.one(name, SECONDS, MEGABYTES):
        limits = SMALLER.get(name)
        if message:
            with pytest.raises(MediaError, match=message):
                use(data, limits)
        else:
            use(data, limits)


def test_a_limit_that_is_raised_lets_a_file_pass():
    data = jpeg(150, side=64)
    with pytest.raises(MediaError, match="POLYMODAL_LIMITS=scans="):
        use(data)
    assert use(data, Limits(scans=1000)) == (64, 64)


@pytest.mark.parametrize("name", ["photo.jpg", "talk.wav"])
def test_pipes_are_not_waited_for(attack, tmp_path: Path, name):
    os.mkfifo(tmp_path / name)
    with attack.one(name, 2), pytest.raises(MediaError, match=f"{name} is a pipe, socket or device"):
        guess_media(tmp_path / name)
    assert not is_media(tmp_path / name)  # in a folder it is passed over


def test_joined_recordings_are_read_to_the_end(capfd):
    assert use(ogg(1) + ogg(3)) == 4 * 16_000
    # Parts may differ in rate.
    assert use(ogg(1) + ogg(2, rate=48_000)) == 3 * 16_000
    assert use(ogg(1, 48_000, "OPUS") + ogg(2, 48_000, "OPUS")) == pytest.approx(3 * 16_000, abs=2)
    # An encoder pads each MP3 to whole frames; a tag stands before each.
    tag = b"ID3\3\0\0\0\0\7\x76" + b"TXXX" + bytes(1010)
    assert use(tag + mp3(1) + tag + mp3(3)) == pytest.approx(4 * 16_000, abs=5000)
    assert use(mp3(1) + mp3(2, rate=48_000)) == pytest.approx(3 * 16_000, abs=5000)
    assert capfd.readouterr() == ("", "")
