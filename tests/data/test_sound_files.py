"""Recordings as real tools write them: every container and codec that a decoder here knows, lengths never filled in."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from polymodal.data.audio import read_audio
from polymodal.data.limits import Limits
from polymodal.data.media import Audio, guess_media
from polymodal.errors import MediaError

RATE = 16_000
SINE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
CODECS = [
    ("PCM_16", 80), ("PCM_24", 110), ("PCM_32", 110), ("FLOAT", 110), ("DOUBLE", 110), ("ULAW", 30), ("ALAW", 30),
    ("PCM_U8", 35), ("PCM_S8", 35), ("IMA_ADPCM", 20), ("MS_ADPCM", 20), ("GSM610", 8), ("G721_32", 15),
    ("NMS_ADPCM_32", 10), ("ALAC_16", 80), ("G723_24", 8),
]  # fmt: skip
CONTAINERS = ["WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF", "W64", "NIST", "VOC", "SVX", "IRCAM", "AVR", "PAF", "PVF"]


def encoded(format_name: str, subtype: str, endian: str = "FILE") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, SINE, RATE, format=format_name, subtype=subtype, endian=endian)
    return buffer.getvalue()


def snr(found: np.ndarray) -> float:
    """In dB; a codec may begin late and end with silence."""
    return max(
        10
        * np.log10(np.mean(SINE[2000:9000] ** 2) / np.mean((found[2000 + d : 9000 + d] - SINE[2000:9000]) ** 2 + 1e-12))
        for d in range(64)
    )


@pytest.mark.parametrize("format_name", CONTAINERS)
def test_containers_and_codecs_of_libsndfile(format_name, tmp_path):
    known = soundfile.available_subtypes(format_name)
    for subtype, least in CODECS:
        for endian in ["FILE", "BIG", "LITTLE"]:
            if subtype not in known or not soundfile.check_format(format_name, subtype, endian):
                continue
            if (format_name, subtype) == ("VOC", "PCM_U8"):  # it can only say 16,129 Hz
                continue
            data = encoded(format_name, subtype, endian)
            found = read_audio(data, RATE)
            assert 0 <= len(found) - RATE <= 400 and snr(found) > least, (subtype, endian)
            path = tmp_path / "photo.jpg"
            path.write_bytes(data)
            assert guess_media(path) == Audio(path)


def by_av(codec: str, format_name: str, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=format_name) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, RATE, 1600):
            block = (SINE[None, start : start + 1600] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("codec", "format_name"),
    [
        ("g722", "wav"), ("adpcm_yamaha", "wav"), ("adpcm_ms", "wav"), ("adpcm_ima_wav", "wav"), ("pcm_s32le", "wav"),
        ("mp2", "mp2"), ("wavpack", "wv"), ("tta", "tta"), ("aac", "adts"), ("pcm_s16be", "caf"), ("alac", "caf"),
        ("libopus", "matroska"), ("pcm_f64be", "au"),
    ],
)  # fmt: skip
def test_codecs_of_ffmpeg(codec, format_name):
    found = read_audio(by_av(codec, format_name), RATE)
    spectrum = np.abs(np.fft.rfft(found[4000:12_000]))
    assert RATE - 1600 <= len(found) <= RATE + 2400 and abs(int(spectrum.argmax()) - 220) <= 1


def wav(riff: int, data: int, sound: bytes, tail: bytes = b"") -> bytes:
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return b"RIFF" + struct.pack("<I", riff) + head + b"data" + struct.pack("<I", data) + sound + tail


SOUND = (SINE * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (2**32 - 1, 2**32 - 1),  # ffmpeg to a pipe
        (0x7FFFF024, 0x7FFFF000),  # sox
        (0x80000024, 0x80000000),  # arecord
        (36, 0),  # a recorder that was killed
        (0, 0),
        (2**32 - 1, 2**32 - 37),
        (len(SOUND) + 38, len(SOUND) + 2),  # the last sample is missing
        (len(SOUND) + 36, len(SOUND) - 4000),  # a killed recorder that writes its length now and then
    ],
)
def test_wav_whose_writer_did_not_know_its_length(riff, data):
    found = read_audio(wav(riff, data, SOUND), RATE)
    assert len(found) == (RATE - 2000 if data == len(SOUND) - 4000 else RATE)
    assert np.abs(found - SINE[: len(found)]).max() < 1e-4


def placed(data: bytes, name: bytes, width: int, order: str, skip: int = 0) -> list[tuple[str, bytes]]:
    """The same file with other lengths behind `name`."""
    place = data.index(name, 8) + len(name) + skip if name else 8
    return [
        (f"{number:x}", data[:place] + number.to_bytes(width, order) + data[place + width :])
        for number in (0, 0x7FFFF000, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1)
    ]


@pytest.mark.parametrize(
    ("format_name", "endian", "name", "width", "order", "skip"),
    [
        ("WAV", "BIG", b"data", 4, "big", 0),
        ("RF64", "FILE", b"ds64", 8, "little", 12),
        ("AIFF", "FILE", b"SSND", 4, "big", 0),
        ("AU", "FILE", b"", 4, "big", 0),
        ("AU", "LITTLE", b"", 4, "little", 0),
        ("CAF", "FILE", b"data", 8, "big", 0),
        ("W64", "FILE", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", 8, "little", 0),
    ],
)
def test_other_containers_whose_writer_did_not_know_the_length(format_name, endian, name, width, order, skip):
    data = encoded(format_name, "PCM_16", endian)
    for number, changed in placed(data, name, width, order, skip):
        found = read_audio(changed, RATE)
        assert len(found) == RATE and snr(found) > 80, number
    for cut in (data[: len(data) // 2], data[: len(data) - 5000]):
        with pytest.raises(MediaError, match="cut short: its header claims 32,000 bytes of sound, found"):
            read_audio(cut, RATE)
    with pytest.raises(MediaError, match="no sound"):
        read_audio(data[: len(data) - 32_000], RATE)


def test_big_wave64_and_bw64_names():
    data = encoded("RF64", "PCM_16")
    assert len(read_audio(b"BW64" + data[4:], RATE)) == RATE


def test_an_empty_wav_with_a_list_of_tags_is_empty():
    tags = b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(MediaError, match="no sound"):
        read_audio(wav(36 + len(tags), 0, b"", tags), RATE)


def test_a_length_never_filled_in_is_no_way_around_the_limit():
    with pytest.raises(MediaError, match=r"the limit is 0\.5 s"):
        read_audio(wav(36, 0, SOUND), RATE, Limits(seconds=0.5))


@pytest.mark.parametrize("format_name", ["MP3", "FLAC", "WAV"])
def test_megabytes_of_tags_do_not_matter(format_name):
    data = encoded(format_name, {"MP3": "MPEG_LAYER_III"}.get(format_name, "PCM_16"))
    size = 3_000_000
    if format_name == "WAV":
        at = data.index(b"data")
        tagged = data[:at] + b"LIST" + struct.pack("<I", size) + b"\0" * size + data[at:]
    else:
        tagged = b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + b"\0" * size + data
    assert np.abs(read_audio(tagged, RATE) - read_audio(data, RATE)).max() < 1e-5


def test_a_codec_that_is_not_read_is_named():
    with pytest.raises(MediaError, match="encoded as adpcm_swf, which is not supported; convert it to WAV"):
        read_audio(by_av("adpcm_swf", "wav", 22_050), RATE)
