"""Reading pictures: JPEG, PNG, WebP, GIF (first frame), BMP, TIFF -> RGB, 8 bit, upright.

source -> size of file checked -> format by magic bytes -> header (width x height checked) -> pixels
-> EXIF orientation applied -> 16-bit grey to 8 bit -> transparency laid over a background colour -> RGB

Traps: Pillow's plugins raise almost anything on damaged data, and its messages contain addresses of memory,
so every failure becomes one line of ours.  JPEG is always decoded in full size: Pillow's draft mode (a scaled
DCT) is two to three times faster for large photos but differs from decode-then-resize by far more than 1/255.
"""

import os
from typing import Any

import numpy as np
from PIL import Image as Pillow

from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.source import IMAGE_FORMATS, OpenFile, open_source, sniff
from polymodal.errors import MediaError

ImageSource = str | os.PathLike[str] | bytes | Pillow.Image | np.ndarray
WHITE = (255, 255, 255)
_ORIENTATION_TAG = 0x0112
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


def read_image(
    source: ImageSource, limits: Limits = DEFAULT_LIMITS, background: tuple[int, int, int] = WHITE
) -> Pillow.Image:
    """Decode a picture to a Pillow image of mode RGB.

    source: a path, the bytes of a file, a Pillow image (copied), or uint8 [H, W], [H, W, 3] or [H, W, 4].
    background: colour 0..255 that shows through transparent pixels. Raises MediaError for what is not one of
    the six formats, is missing, empty, damaged, cut short, or has more than `limits.pixels` pixels by its
    header, in which case no pixel is decoded.
    """
    if isinstance(source, np.ndarray):
        return _guarded("picture", _from_array(source, limits), background)
    if isinstance(source, Pillow.Image):
        _check_size("picture", source.size, limits)
        return _guarded("picture", source, background)
    with open_source(source, limits) as opened:
        format_name = sniff(opened.head)
        if format_name not in IMAGE_FORMATS:
            found = {None: "an unknown format", "text": "plain text"}.get(format_name, f"{format_name} data")
            raise MediaError(
                f"{opened.name} is not a picture: expected JPEG, PNG, WebP, GIF, BMP or TIFF, found {found}"
            )
        picture = _open(opened, str(format_name).upper())
        _check_size(opened.name, picture.size, limits)
        return _guarded(opened.name, picture, background)


def _open(opened: OpenFile, format_name: str) -> Pillow.Image:
    try:
        return Pillow.open(opened.file, formats=[format_name])
    except Pillow.DecompressionBombError as error:
        raise MediaError(f"{opened.name} claims more pixels than any picture may have (decompression bomb)") from error
    except Exception as error:
        raise MediaError(f"{opened.name} is damaged: its {format_name} header cannot be read") from error


def _check_size(name: str, size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"{name} is {width} x {height} pixels: it holds no picture")
    if width * height > limits.pixels:
        raise MediaError(
            f"{name} is {width} x {height} = {width * height:,} pixels, the limit is {limits.pixels:,} (Limits.pixels)"
        )


def _guarded(name: str, picture: Pillow.Image, background: tuple[int, int, int]) -> Pillow.Image:
    """Decode and convert; whatever Pillow raises on the way becomes a MediaError without its text."""
    try:
        picture.load()
        return _to_rgb(name, _upright(picture), background)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"{name} needs more memory than there is; reduce Limits.pixels") from error
    except Exception as error:
        raise MediaError(f"{name} is damaged or cut short: its pixels cannot be decoded") from error


def _upright(picture: Pillow.Image) -> Pillow.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF is common beside sound pixels: such a picture is shown as stored
        orientation = None
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(name: str, picture: Pillow.Image, background: tuple[int, int, int]) -> Pillow.Image:
    if picture.mode in _SIXTEEN_BIT or (picture.mode == "I" and picture.format == "PNG"):
        samples = np.asarray(picture).astype(np.uint32)
        picture = Pillow.fromarray(((np.minimum(samples, 65535) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        # 32-bit and float samples have no agreed white; scaling them would be a guess.
        raise MediaError(f"{name} has 32-bit samples (mode {picture.mode}); convert it to 8 or 16 bit first")
    if picture.mode in _ALPHA or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")
    return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")


def _from_array(pixels: np.ndarray, limits: Limits) -> Pillow.Image:
    shape: Any = list(pixels.shape)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and shape[2] in (3, 4))):
        raise MediaError(
            f"a picture as an array must be uint8 [H, W], [H, W, 3] or [H, W, 4], found {pixels.dtype} {shape}"
        )
    _check_size("picture", (shape[1], shape[0]), limits)
    return Pillow.fromarray(np.ascontiguousarray(pixels))
