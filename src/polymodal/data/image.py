"""Reading pictures: JPEG, PNG, WebP, GIF (first frame), BMP, TIFF, AVIF, HEIC -> RGB, 8 bit, upright.

source -> size of file checked -> format by magic bytes -> header (width x height checked) -> pixels
-> 16-bit grey to 8 bit -> transparency laid over a background colour -> RGB -> EXIF orientation applied

A picture of more than `Limits.pixels` is scaled down by a power of two while it is decoded: JPEG by its scaled DCT,
HEIC tile by tile, other formats after they were decoded whole.

Traps: Pillow's plugins raise almost anything on damaged data, and its messages contain addresses of memory, so every
failure becomes one line of ours.  Pillow.open warns about sizes that are allowed here, so the plugins are called by
name.  Below the limit JPEG is decoded in full size: the scaled DCT is two to three times faster for large photos but
differs from decode-then-resize by far more than 1/255.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as Pillow

from polymodal.data.heif import read_heif
from polymodal.data.jpeg_segments import check_jpeg
from polymodal.data.libtiff_output import silence_libtiff
from polymodal.data.limits import DEFAULT_LIMITS, Limits, how_to_raise
from polymodal.data.png_chunks import without_long_texts
from polymodal.data.source import IMAGE_FORMATS, OpenFile, open_source, sniff
from polymodal.errors import MediaError

ImageSource = str | os.PathLike[str] | bytes | Pillow.Image | np.ndarray
WHITE = (255, 255, 255)
_ORIENTATION_TAG = 0x0112
_SUBFILE_TAG, _DNG_TAG = 254, 50706
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_PLUGINS: dict[str, Any] = {
    "avif": AvifImagePlugin.AvifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "jpeg": JpegImagePlugin.jpeg_factory,
    "png": PngImagePlugin.PngImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}
_OPTIONAL_PLUGINS = {"avif": AvifImagePlugin.SUPPORTED, "webp": WebPImagePlugin.SUPPORTED}
_WARNED_FROM = Pillow.MAX_IMAGE_PIXELS or 0  # pixels from which Pillow warns of sizes that are allowed here

# What Pillow thinks of damaged tags is said in our one line or does not matter; set once, since threads share filters.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(
    source: ImageSource, limits: Limits = DEFAULT_LIMITS, background: tuple[int, int, int] = WHITE
) -> Pillow.Image:
    """Decode a picture to a Pillow image of mode RGB, of at most `limits.pixels` pixels.

    source: a path, the bytes of a file, a Pillow image (copied), or uint8 [H, W], [H, W, 3] or [H, W, 4].
    background: colour 0..255 that shows through transparent pixels. Raises MediaError for what is not one of
    the eight formats, is missing, empty, damaged, cut short, or has more than `limits.source_pixels` pixels by its
    header, in which case no pixel is decoded.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Pillow.Image):
        factor = scale_factor("picture", source.size, limits)
        picture = _guarded("picture", source, factor, background)
        return picture.copy() if picture is source else picture
    with open_source(source, limits) as opened:
        format_name = sniff(opened.head)
        if format_name not in IMAGE_FORMATS:
            found = {None: "an unknown format", "text": "plain text"}.get(format_name, f"{format_name} data")
            raise MediaError(
                f"{opened.name} is not a picture: expected JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC, found {found}"
            )
        if format_name == "heif":
            return read_heif(opened, limits, background, lambda size: scale_factor(opened.name, size, limits, 1))
        picture = _open(opened, str(format_name), limits)
        scalable = format_name == "jpeg" and not picture.info.get("progressive")
        factor = scale_factor(opened.name, picture.size, limits, 1 if scalable else 2)
        return _guarded(opened.name, picture, factor, background)


def scale_factor(name: str, size: tuple[int, int], limits: Limits, cost: int = 2) -> int:
    """The power of two by which a picture is scaled down while it is decoded, 1 for all but very large ones.

    cost: 2 where it must be decoded whole first, which is allowed for half as many pixels.  Raises MediaError.
    """
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"{name} is {width} x {height} pixels: it holds no picture")
    most = limits.source_pixels // cost
    if width * height > most:
        raise MediaError(
            f"{name} is {width} x {height} = {width * height:,} pixels, the limit is {most:,} "
            f"({how_to_raise('source_pixels', cost * width * height)})"
        )
    factor = 1
    while -(-width // factor) * -(-height // factor) > limits.pixels:
        factor *= 2
    return factor


def _open(opened: OpenFile, format_name: str, limits: Limits) -> Pillow.Image:
    if not _OPTIONAL_PLUGINS.get(format_name, True):
        raise MediaError(
            f"{opened.name} is a picture of format {format_name.upper()}, which this Pillow was built without; "
            "convert it to JPEG or PNG first"
        )
    if format_name == "tiff":
        silence_libtiff()
    if format_name == "jpeg":
        check_jpeg(opened, limits)
    file = without_long_texts(opened, limits) if format_name == "png" else opened.file
    try:
        with _unwarned(format_name == "gif"):  # its first frame is measured when it is opened
            picture = _PLUGINS[format_name](file)
    except Exception as error:
        raise MediaError(f"{opened.name} is damaged: its {format_name.upper()} header cannot be read") from error
    if format_name == "tiff" and (picture.tag_v2.get(_SUBFILE_TAG, 0) == 1 or _DNG_TAG in picture.tag_v2):
        raise MediaError(
            f"{opened.name} is a camera's raw file, which begins with a thumbnail; convert it to JPEG first"
        )
    return picture


def _guarded(name: str, picture: Pillow.Image, factor: int, background: tuple[int, int, int]) -> Pillow.Image:
    """Decode, convert and scale; whatever Pillow raises on the way becomes a MediaError without its text."""
    try:
        if factor > 1 and isinstance(picture, JpegImagePlugin.JpegImageFile):
            width = picture.width
            picture.draft(None, (-(-width // factor), -(-picture.height // factor)))
            factor = max(1, factor * picture.width // width)
        with _unwarned(picture.width * picture.height > _WARNED_FROM):
            picture.load()
        rgb = _to_rgb(name, picture, background)
        return _upright(picture, rgb.reduce(factor) if factor > 1 else rgb)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"{name} needs more memory than there is; scale it down first") from error
    except Exception as error:
        raise MediaError(f"{name} is damaged or cut short: its pixels cannot be decoded") from error


@contextmanager
def _unwarned(large: bool) -> Iterator[None]:
    """Without Pillow's warning of sizes that are allowed here; where none is due, the warnings are left alone."""
    if not large:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        yield


def _upright(picture: Pillow.Image, rgb: Pillow.Image) -> Pillow.Image:
    """`rgb` turned as the EXIF orientation of `picture` says."""
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF is common beside sound pixels: such a picture is shown as stored
        orientation = None
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(name: str, picture: Pillow.Image, background: tuple[int, int, int]) -> Pillow.Image:
    if picture.mode in _SIXTEEN_BIT or (picture.mode == "I" and picture.format == "PNG"):
        samples = np.asarray(picture).astype(np.uint32)
        picture = Pillow.fromarray(((np.minimum(samples, 65535) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        # 32-bit and float samples have no agreed white; scaling them would be a guess.
        raise MediaError(f"{name} has 32-bit samples (mode {picture.mode}); convert it to 8 or 16 bit first")
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode == "LAB":
        raise MediaError(f"{name} is stored in the colours of CIE Lab; convert it to RGB first")
    if picture.mode in _ALPHA or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_array(pixels: np.ndarray) -> Pillow.Image:
    shape: Any = list(pixels.shape)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and shape[2] in (3, 4))):
        raise MediaError(
            f"a picture as an array must be uint8 [H, W], [H, W, 3] or [H, W, 4], found {pixels.dtype} {shape}"
        )
    if 0 in shape:
        raise MediaError(f"an array of {shape} holds no picture")
    return Pillow.fromarray(np.ascontiguousarray(pixels))
