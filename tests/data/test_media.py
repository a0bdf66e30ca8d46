"""Media records: nothing is read before it is asked for, everything is read once, hashes tell contents apart."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from polymodal.data.limits import Limits
from polymodal.data.media import Audio, Image, Text, Video, guess_media
from polymodal.data.source import clean_name, decode_base64, looks_like_text, sniff
from polymodal.errors import MediaError, PromptError


def picture_bytes(picture: Pillow.Image, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_records_open_nothing_until_asked():
    for record in (Image("/nowhere/a.jpg"), Audio("/nowhere/a.wav"), Video("http://example.com/a.mp4")):
        assert record.source  # building it was no error
    with pytest.raises(MediaError, match="no file"):
        _ = Image("/nowhere/a.jpg").picture
    with pytest.raises(MediaError, match="no file"):
        Audio("/nowhere/a.wav").samples(16_000)
    with pytest.raises(MediaError, match="URL"):
        Video("http://example.com/a.mp4").clip(frames=1)


def test_importing_the_records_imports_no_media_library():
    code = (
        "import sys, polymodal.data.media; print(*[m for m in ('torch', 'PIL', 'av', 'soundfile') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_each_is_decoded_once(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes(Pillow.new("RGB", (4, 4), (1, 2, 3))))
    image = Image(path)
    first = image.picture
    path.unlink()
    assert image.picture is first and len(image.content_hash) == 64
    audio = Audio((np.zeros(800, dtype=np.float32), 8000))
    assert audio.samples(16_000) is audio.samples(16_000) and len(audio.samples(16_000)) == 1600


def test_limits_travel_with_the_record():
    data = picture_bytes(Pillow.new("RGB", (40, 40)))
    with pytest.raises(MediaError, match="the limit is 100"):
        _ = Image(data, Limits(source_pixels=200)).picture
    with pytest.raises(MediaError, match="the limit is 1 s"):
        Audio((np.zeros(9000, dtype=np.float32), 8000), Limits(seconds=1)).samples(8000)


def test_hash_is_over_what_was_decoded():
    """Same pixels from different files agree; same bytes in another shape, palette or background differ."""
    picture = Pillow.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3))
    buffer = io.BytesIO()
    picture.save(buffer, "BMP")
    assert Image(picture).content_hash == Image(picture_bytes(picture)).content_hash
    assert Image(picture).content_hash == Image(buffer.getvalue()).content_hash
    reshaped = Pillow.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 4, 3))
    assert Image(picture).content_hash != Image(reshaped).content_hash
    twins = []
    for colours in ([0, 0, 0, 255, 0, 0], [0, 0, 0, 0, 255, 0]):
        twin = Pillow.new("P", (4, 4), 1)
        twin.putpalette(colours + [0] * 762)
        twins.append(Image(picture_bytes(twin)).content_hash)
    assert twins[0] != twins[1]
    clear = picture_bytes(Pillow.new("RGBA", (2, 2), (0, 0, 0, 0)))
    assert Image(clear).content_hash != Image(clear, background=(0, 0, 0)).content_hash


def test_hash_of_sound_depends_on_samples_and_rate():
    samples = np.linspace(-0.5, 0.5, 800, dtype=np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 8000, format="WAV", subtype="FLOAT")
    record = Audio((samples, 8000))
    assert record.content_hash(8000) == Audio(buffer.getvalue()).content_hash(8000)
    assert record.content_hash(8000) != record.content_hash(16_000)
    assert record.content_hash(8000) != Audio((-samples, 8000)).content_hash(8000)


def test_repr_shows_no_data_and_no_folder():
    assert repr(Image(b"x" * 1000)) == "Image(1,000 bytes)"
    assert repr(Video("/some/where/clip.mp4")) == "Video('clip.mp4')"
    assert repr(Audio((np.zeros(3, dtype=np.float32), 8000))) == "Audio(float32 [3], 8000)"
    assert "0x" not in repr(Image(Pillow.new("RGB", (1, 1))))


def test_equality_is_by_source():
    assert Text("a") == Text("a") and Image("a.png") == Image("a.png") != Image("b.png")
    assert Audio("a.wav") == Audio("a.wav") and Video("a") != Audio("a")


def test_guess_media_by_content_alone(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_text("A note, not a picture.\n")
    assert guess_media(path) == Text("A note, not a picture.\n")
    soundfile.write(path, np.zeros(800), 8000, format="FLAC")
    assert guess_media(path) == Audio(path)
    path.write_bytes(picture_bytes(Pillow.new("RGB", (2, 2))))
    assert guess_media(path) == Image(path)
    with pytest.raises(MediaError, match="folder"):
        guess_media(tmp_path)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"\0\0\0\x20ftypisom", "mp4"),
        (b"\x1aE\xdf\xa3", "matroska"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"ID3\x04\0", "mp3"),
        (b"\xff\xf1\x50\x80", "aac"),
        (b"\xff\xfeh\0e\0l\0l\0o\0", None),  # UTF-16 text begins like a sync word
        (b"BMW is a maker of cars", "text"),
        ("naïve".encode(), "text"),
        (b"\x7fELF\x02\x01", None),
        (b"PK\x03\x04", None),
        (b"\x80\x04\x95", None),
    ],
)
def test_sniff(head, name):
    assert sniff(head) == name


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_sniff_never_fails(head):
    assert sniff(head) is None or isinstance(sniff(head), str)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1), st.integers(0, 3))
def test_text_is_known_even_when_cut_inside_a_character(text, cut):
    text = "a" + text
    data = text.encode("utf-8", "ignore")
    plain = all(char in "\t\n\r\f" or (char >= " " and char != "\x7f") for char in text)
    assert looks_like_text(data) == plain
    if plain and len(text[-1].encode("utf-8", "ignore")) > cut:
        assert looks_like_text(data[: len(data) - cut])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_names_in_messages_are_one_short_line(name):
    shown = clean_name(name)
    assert len(shown) <= 80 and all(char.isprintable() for char in shown)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=0, max_size=200))
def test_any_bytes_give_media_or_media_error(data):
    for read in (
        lambda: Image(data, Limits(pixels=10_000)).picture,
        lambda: Audio(data, Limits(seconds=10)).samples(8000),
        lambda: Video(data, Limits(seconds=10, pixels=10_000)).clip(frames=1),
    ):
        try:
            read()
        except MediaError as error:
            assert "0x" not in str(error) and "\n" not in str(error)


def test_text_is_unicode():
    with pytest.raises(PromptError, match="not valid UTF-8 near"):
        Text("what is caf\udce9?")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 300])
def test_base64_as_programs_write_it(size):
    data = bytes(range(256))[:size] + b"\xfb\xff" * 3
    for text in (base64.b64encode(data), base64.encodebytes(data), base64.urlsafe_b64encode(data)):
        for written in (text, text.replace(b"\n", b"\r\n"), text.rstrip(b"\n="), b" " + text + b"\n", text.decode()):
            assert decode_base64(written) == data
    for wrong in ("a", "a*==", "é", "AAAA=AAAA"):
        with pytest.raises(ValueError):
            decode_base64(wrong)
