"""Reading pictures: formats, modes, orientation, transparency, bounds, damage."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms

from polymodal.data.image import read_image
from polymodal.data.limits import Limits
from polymodal.errors import ConfigError, MediaError

# Pillow warns about some of the damage that is done here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


def photo(width: int = 48, height: int = 32) -> Pillow.Image:
    """A smooth picture whose four corners differ, so that every flip and turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 / max(1, width - 1), y * 255 / max(1, height - 1)
    return Pillow.fromarray(np.stack([red, green, (red + green) / 4], -1).astype(np.uint8))


def encoded(picture: Pillow.Image, format_name: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format_name", FORMATS)
def test_formats(format_name, tmp_path):
    path = tmp_path / "picture.bin"  # the extension says nothing
    path.write_bytes(encoded(photo(), format_name))
    picture = read_image(path)
    assert picture.mode == "RGB" and picture.size == (48, 32)
    tolerance = {"JPEG": 12, "WEBP": 20, "GIF": 40}.get(format_name, 0)
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(photo())).max() <= tolerance
    assert picture.tobytes() == read_image(path.read_bytes()).tobytes() == read_image(str(path)).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, format_name):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), format_name, exif=exif)
    from PIL import ImageOps

    with Pillow.open(io.BytesIO(data)) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    found = read_image(data)
    assert found.size == expected.size == ((32, 48) if orientation >= 5 else (48, 32))
    assert found.tobytes() == expected.tobytes()


def test_damaged_exif_beside_sound_pixels_is_ignored():
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(data).size == (48, 32)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_the_background(mode):
    clear = Pillow.new(mode, (4, 4), 0)
    assert read_image(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(encoded(clear, "PNG"), background=(1, 2, 3)).getpixel((3, 3)) == (1, 2, 3)


def test_half_transparent_red_on_white():
    half = Pillow.new("RGBA", (2, 2), (255, 0, 0, 128))
    assert read_image(half).getpixel((0, 0)) == (255, 127, 127)


def test_transparent_palette_and_colour_key():
    palette = Pillow.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50] + [0] * 762)
    assert read_image(encoded(palette, "PNG")).getpixel((0, 0)) == (200, 100, 50)
    assert read_image(encoded(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(encoded(palette, "GIF", transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    keyed = Pillow.new("RGB", (4, 4), (9, 9, 9))
    assert read_image(encoded(keyed, "PNG", transparency=(9, 9, 9))).getpixel((0, 0)) == (255, 255, 255)


def test_palette_twins_differ():
    twins = []
    for colours in ([0, 0, 0, 255, 0, 0], [0, 0, 0, 0, 255, 0]):
        picture = Pillow.new("P", (4, 4), 1)
        picture.putpalette(colours + [0] * 762)
        twins.append(read_image(encoded(picture, "PNG")).tobytes())
    assert twins[0] != twins[1]


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_tones(format_name):
    samples = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = np.asarray(read_image(encoded(Pillow.fromarray(samples), format_name)))[..., 0]
    assert np.abs(found - samples / 257).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("mode", "format_name"), [("1", "PNG"), ("L", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")])
def test_other_modes_become_rgb(mode, format_name):
    white = Pillow.new("RGB", (16, 16), (255, 255, 255)).convert(mode)
    assert read_image(encoded(white, format_name)).getpixel((8, 8)) == (255, 255, 255)


def test_float_samples_are_refused():
    data = encoded(Pillow.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF")
    with pytest.raises(MediaError, match="32-bit samples"):
        read_image(data)


def test_animated_gif_gives_the_first_frame():
    frames = [Pillow.new("RGB", (8, 8), colour) for colour in [(255, 0, 0), (0, 255, 0)]]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format_name", FORMATS)
def test_one_pixel(format_name):
    assert read_image(encoded(Pillow.new("RGB", (1, 1), (255, 255, 255)), format_name)).size == (1, 1)


def test_arrays():
    pixels = np.asarray(photo())
    assert np.array_equal(np.asarray(read_image(pixels)), pixels)
    assert np.array_equal(np.asarray(read_image(pixels[..., 0])), np.repeat(pixels[..., :1], 3, axis=2))
    with pytest.raises(MediaError, match="float64"):
        read_image(pixels / 255)
    with pytest.raises(MediaError, match="holds no picture"):
        read_image(np.zeros((0, 4, 3), dtype=np.uint8))


def test_the_result_is_a_copy():
    picture = photo()
    read_image(picture).putpixel((0, 0), (7, 7, 7))
    assert picture.getpixel((0, 0)) != (7, 7, 7)


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (12_000, 12_000), (10_001, 10_000)])
def test_huge_header_is_refused_before_decoding(size, monkeypatch):
    from PIL import ImageFile

    def never(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(MediaError, match="pixels"):
        read_image(png_header(*size))


def test_limit_on_pixels_and_bytes():
    data = encoded(photo(), "PNG")
    with pytest.raises(MediaError, match=r"48 x 32 = 1,536 pixels, the limit is 1,000 .*LIMITS=source_pixels=3072,"):
        read_image(data, Limits(source_pixels=2000))
    with pytest.raises(MediaError, match=r"48 x 32"):
        read_image(photo(), Limits(source_pixels=2000))
    with pytest.raises(MediaError, match="the limit is 10 bytes"):
        read_image(data, Limits(bytes=10))
    with pytest.raises(ConfigError):
        Limits(pixels=0)


@pytest.mark.parametrize("format_name", FORMATS)
def test_truncated_files(format_name, tmp_path):
    noise = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / "cut.jpg"
    data = encoded(noise, format_name)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"cut\.jpg is damaged"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"Dear Sir or Madam,\n", "found plain text"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "found plain text"),
        (b"SIMPLE  =                    T", "found plain text"),
        (b"8BPS\0\1" + b"\0" * 40, "unknown format"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (b"OggS" + b"\0" * 60, "found ogg data"),
    ],
)
def test_what_is_not_a_picture(content, message, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message) as caught:
        read_image(path)
    text = str(caught.value)
    assert text.startswith("photo.jpg") and "0x" not in text and "\n" not in text and str(tmp_path) not in text


def test_missing_folder_url_and_odd_names(tmp_path):
    for source, message in [
        (tmp_path / "none.jpg", "no file"),
        (tmp_path, "folder"),
        ("https://example.com/a.jpg", "URL"),
        ("data:image/png;base64,AAAA", "URL"),
        ("x" * 5000, "cannot be opened"),
    ]:
        with pytest.raises(MediaError, match=message) as caught:
            read_image(source)
        assert len(str(caught.value)) < 300
    odd = tmp_path / "new\nline\x1b[31m.jpg"
    odd.write_bytes(b"text")
    with pytest.raises(MediaError) as caught:
        read_image(odd)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


CORPUS = {
    **{name: encoded(photo(20, 12), name) for name in FORMATS},
    "P": encoded(photo(20, 12).convert("P"), "PNG", transparency=3),
    "EXIF": encoded(
        photo(20, 12), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
}


@pytest.mark.parametrize("name", sorted(CORPUS))
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_mutated_files_give_a_picture_or_media_error(name, data):
    mutated = bytearray(CORPUS[name])
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(mutated)), st.integers(0, len(mutated))))
    try:
        picture = read_image(bytes(mutated[:cut]), Limits(pixels=1_000_000))
    except MediaError as error:
        assert "0x" not in str(error) and "\n" not in str(error)
    else:
        assert picture.mode == "RGB" and len(picture.tobytes()) == picture.width * picture.height * 3


def test_a_large_picture_is_scaled_while_it_is_decoded():
    """The same scene, a quarter of the sides: JPEG by its scaled DCT, the others after decoding."""
    large, limits = photo(400, 320), Limits(pixels=10_000)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    palette = large.quantize(64)
    for data, tolerance in [
        (encoded(large, "JPEG", quality=95, exif=exif), 6),
        (encoded(large, "JPEG", quality=95, progressive=True, exif=exif), 6),
        (encoded(large, "PNG", exif=exif), 2),
        (encoded(palette, "PNG", exif=exif), 40),
    ]:
        found = read_image(data, limits)
        assert found.size == (80, 100) and found.mode == "RGB"
        expected = large.reduce(4).transpose(Pillow.Transpose.ROTATE_270)
        assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= tolerance
    assert read_image(large, limits).size == read_image(np.asarray(large), limits).size == (100, 80)


def test_photographs_of_present_phones_are_read():
    """96 megapixels; no warning of a decompression bomb reaches the user."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = encoded(Pillow.new("L", (9600, 10_000)), "JPEG", quality=20)
        assert read_image(data).size == (4800, 5000)
    header = bytearray(encoded(Pillow.new("RGB", (16, 16)), "JPEG"))
    place = header.index(b"\xff\xc0")
    header[place + 5 : place + 9] = struct.pack(">HH", 20_000, 20_000)
    with pytest.raises(
        MediaError, match=r"400,000,000 pixels, the limit is 200,000,000 .*LIMITS=source_pixels=400000000,"
    ):
        read_image(bytes(header))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("where", [33, -12])  # behind the header, before the end
@pytest.mark.parametrize(
    "extra",
    [
        png_chunk(b"zTXt", b"Raw\0\0" + zlib.compress(b"x" * 3_000_000)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * 1_000_000)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 1_000_000),
        png_chunk(b"tEXt", b"Comment\0" + b"x" * 70_000_000),
        png_chunk(b"iCCP", b"Scanner\0\0" + zlib.compress(b"\0" * 2_000_000)),
    ],
    ids=["zTXt", "iTXt", "plain iTXt", "tEXt", "iCCP"],
)
def test_megabytes_of_metadata_in_a_png_do_not_matter(extra, where):
    plain = encoded(photo(), "PNG")
    assert read_image(plain[:where] + extra + plain[where:]).tobytes() == photo().tobytes()


def test_megabytes_of_metadata_in_a_jpeg_do_not_matter():
    plain = encoded(photo(), "JPEG")
    extra = (b"\xff\xe1" + struct.pack(">H", 65_000) + b"http://ns.adobe.com/xmp/extension/\0" + b"x" * 64_963) * 40
    assert read_image(plain[:2] + extra + plain[2:]).tobytes() == read_image(plain).tobytes()


def test_orientation_in_a_text_of_a_png_is_kept():
    """ImageMagick writes Exif as a compressed text."""
    exif = Pillow.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(raw), raw.hex().encode()))
    plain = encoded(photo(), "PNG")
    assert read_image(plain[:33] + png_chunk(b"zTXt", text) + plain[33:]).size == (32, 48)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colour_profiles_are_not_applied(format_name):
    """Values are as stored, which is what Pillow's convert("RGB") and with it the published processors give."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    red = Pillow.new("RGB", (16, 16), (200, 60, 20))
    plain, tagged = encoded(red, format_name), encoded(red, format_name, icc_profile=swapped)
    opened = Pillow.open(io.BytesIO(tagged))
    assert opened.info["icc_profile"] == swapped, "the profile is there"
    assert read_image(tagged).tobytes() == opened.convert("RGB").tobytes() == read_image(plain).tobytes()


def test_sixteen_bit_colour_and_transparency():
    rows = b"".join(b"\0" + struct.pack(">8H", *([40_000, 20_000, 10_000, 65_535] * 2)) for _ in range(2))
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 6, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    assert read_image(data).getpixel((1, 1)) == pytest.approx((156, 78, 39), abs=1)
    assert read_image(Pillow.new("La", (2, 2), (60, 128))).getpixel((0, 0)) == (187, 187, 187)
    palette = Pillow.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50] + [0] * 762)
    half = read_image(encoded(palette, "PNG", transparency=bytes([0, 128])))
    assert half.getpixel((0, 0)) == pytest.approx((227, 177, 152), abs=1)


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_picture(format_name):
    frames = [Pillow.new("RGB", (8, 8), colour) for colour in [(255, 0, 0), (0, 255, 0)]]
    lossless = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **lossless)
    assert read_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_what_cannot_be_shown_as_it_is_says_what_to_do():
    with pytest.raises(MediaError, match="CIE Lab; convert it to RGB"):
        read_image(encoded(Pillow.new("LAB", (4, 4)), "TIFF"))
    thumbnail = encoded(photo(), "TIFF", tiffinfo={254: 1})
    with pytest.raises(MediaError, match="camera's raw file, which begins with a thumbnail"):
        read_image(thumbnail)
