"""HEIC and AVIF photographs: the whole picture out of its tiles, turned as its boxes say, bounded, damage told."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import features

from heif_writer import heic
from polymodal.data.image import read_image
from polymodal.data.limits import Limits
from polymodal.data.media import Image, Video, guess_media
from polymodal.data.source import sniff
from polymodal.errors import MediaError

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 60, 200), (240, 220, 40), (20, 20, 20), (230, 230, 230)]


def tile(colour: tuple[int, int, int], side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def is_near(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return all(abs(a - b) <= 6 for a, b in zip(found, expected, strict=True))


SIX = heic([tile(colour) for colour in COLOURS], grid=(2, 3), size=(180, 120))


def test_a_grid_of_tiles_is_one_picture(tmp_path):
    picture = read_image(SIX)
    assert picture.mode == "RGB" and picture.size == (180, 120)
    for index, colour in enumerate(COLOURS):
        assert is_near(picture.getpixel((index % 3 * 64 + 20, index // 3 * 64 + 20)), colour)
    path = tmp_path / "clip.mp4"
    path.write_bytes(SIX)
    assert guess_media(path) == Image(path)
    with pytest.raises(MediaError, match="is not a recording or video: found heif data"):
        Video(path).clip(frames=1)


def corners(picture: Pillow.Image) -> list[int]:
    """Which of the six colours stand in the four corners, row by row."""
    width, height = picture.size
    pixels = [picture.getpixel((x, y)) for y in (4, height - 5) for x in (4, width - 5)]
    return [next(i for i, colour in enumerate(COLOURS) if is_near(pixel, colour)) for pixel in pixels]


@pytest.mark.parametrize(
    ("turned", "size", "expected"),
    [
        ([], (180, 120), [0, 2, 3, 5]),
        ([(b"irot", b"\1")], (120, 180), [2, 5, 0, 3]),  # a quarter turn counter-clockwise
        ([(b"irot", b"\2")], (180, 120), [5, 3, 2, 0]),
        ([(b"irot", b"\3")], (120, 180), [3, 0, 5, 2]),
        ([(b"imir", b"\0")], (180, 120), [3, 5, 0, 2]),  # top and bottom change places
        ([(b"imir", b"\1")], (180, 120), [2, 0, 5, 3]),
        ([(b"irot", b"\1"), (b"imir", b"\1")], (120, 180), [5, 2, 3, 0]),
        ([(b"clap", struct.pack(">8i", 50, 1, 40, 1, -65, 1, -40, 1))], (50, 40), [0, 0, 0, 0]),
    ],
)
def test_rotation_mirroring_and_crop(turned, size, expected):
    picture = read_image(heic([tile(c) for c in COLOURS], grid=(2, 3), size=(180, 120), turned=turned))
    assert picture.size == size and corners(picture) == expected


def test_one_coded_picture_and_its_transparency():
    clear = np.zeros((64, 64), np.uint8)
    clear[:, 32:] = 255
    picture = read_image(heic([tile(COLOURS[0])], alpha=clear), background=(0, 0, 255))
    assert is_near(picture.getpixel((10, 30)), (0, 0, 255)) and is_near(picture.getpixel((50, 30)), COLOURS[0])


def test_a_large_one_is_scaled_tile_by_tile_and_a_larger_one_refused():
    picture = read_image(SIX, Limits(pixels=6000))
    assert picture.size == (90, 60) and corners(picture) == [0, 2, 3, 5]
    with pytest.raises(MediaError, match=r"180 x 120 = 21,600 pixels, the limit is 21,000"):
        read_image(SIX, Limits(source_pixels=21_000))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SIX[: len(SIX) - 400], "cut short"),
        (SIX[:200], "HEIF boxes"),
        (SIX.replace(b"grid", b"iovl"), r"not read here \(iovl\); convert it first"),
        (SIX.replace(b"ftypheic", b"ftypcrx "), "camera raw"),
    ],
)
def test_damage_and_other_kinds_are_told(data, message):
    with pytest.raises(MediaError, match=message) as caught:
        read_image(data)
    assert "\n" not in str(caught.value) and "0x" not in str(caught.value)


def test_a_few_bytes_that_claim_much_work_are_refused(monkeypatch):
    """Extents that take no byte in the file, and the same bytes of the file many times."""
    from polymodal.data.heif_items import Fields, HeifDamaged, HeifItems, _read_extents
    from polymodal.data.limits import DEFAULT_LIMITS
    from polymodal.data.source import open_source

    with open_source(b"x" * 1000, DEFAULT_LIMITS) as opened:
        items = HeifItems(opened)
        with pytest.raises(HeifDamaged):
            _read_extents(Fields(b"\0\0\0\0\0\0" + b"\xff\xff" + b"\0\1\0\0\xff\xff" * 65_535), items)
        items.extents[1] = [(0, 0, 0)] * 5
        with pytest.raises(HeifDamaged):
            items.data(1)
    monkeypatch.setattr("polymodal.data.heif.MAX_TILES", 5)
    with pytest.raises(MediaError, match="HEIF boxes"):
        read_image(SIX)


@pytest.mark.parametrize(
    ("brands", "name"),
    [
        (b"heic\0\0\0\0mif1heic", "heif"),
        (b"mif1\0\0\0\0mif1heic", "heif"),
        (b"mif1\0\0\0\0avifmiaf", "avif"),
        (b"avis\0\0\0\0avifmsf1", "avif"),
        (b"hevc\0\0\0\0hevcmif1", "heif"),
        (b"msf1\0\0\0\0hevciso8", "mp4"),
        (b"isom\0\0\0\0iso2avc1", "mp4"),
        (b"qt  \0\0\0\0qt  ", "mp4"),
    ],
)
def test_brands_tell_pictures_from_videos(brands, name):
    assert sniff(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands) == name


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
@pytest.mark.parametrize("orientation", [1, 6])
def test_avif_is_a_picture(tmp_path, orientation):
    halves = np.concatenate([tile(COLOURS[0]), tile(COLOURS[2])], 1)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.avif"
    Pillow.fromarray(halves).save(path, exif=exif, quality=95)
    picture = guess_media(path).picture
    assert picture.size == ((64, 128) if orientation == 6 else (128, 64))
    assert is_near(picture.getpixel((10, 10)), COLOURS[0]) and is_near(
        picture.getpixel((picture.width - 10, picture.height - 10)), COLOURS[2]
    )
    buffer = io.BytesIO()
    frames = [Pillow.fromarray(tile(colour)) for colour in COLOURS[:2]]
    frames[0].save(buffer, "AVIF", save_all=True, append_images=frames[1:])
    assert is_near(read_image(buffer.getvalue()).getpixel((5, 5)), COLOURS[0])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_files_give_a_picture_or_media_error(data):
    mutated = bytearray(SIX)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, min(len(mutated) - 1, 900)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(mutated)), st.integers(0, len(mutated))))
    try:
        picture = read_image(bytes(mutated[:cut]), Limits(source_pixels=2_000_000))
    except MediaError as error:
        assert "0x" not in str(error) and "\n" not in str(error)
    else:
        assert picture.mode == "RGB"
