"""Bring any picture onto a white square, draw SVG, and measure the colour of a thing on a clear background.

Flow: PNG/WebP/JPEG bytes or SVG -> RGBA -> white below -> letterbox to a square -> Lanczos -> uint8 [size, size, 3].
Traps: colour is measured on the opaque pixels only, so it exists for cut-out pictures and not for photographs.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polymodal.data.sets.svg import svg_bytes

if TYPE_CHECKING:
    import PIL.Image

SIZE = 224
INKED = 0.4  # share of its own box that a black thing must fill
SURE = 0.72  # share of the coloured pixels that one colour must hold


def open_file(path: str | Path, size: int = SIZE) -> PIL.Image.Image:
    """A picture file as PIL image; SVG is drawn so that its longer side is `size` pixels."""
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() == ".svg":
        return draw_svg(path, size)
    image = Image.open(path)
    return image.convert("RGBA") if image.mode in ("P", "PA", "LA", "RGBA") else image.convert("RGB")


def draw_svg(path: str | Path, size: int = SIZE) -> PIL.Image.Image:
    """Rasterise with resvg.  Raises MediaError when the drawing is broken or resvg-py is not installed."""
    from PIL import Image

    return Image.open(io.BytesIO(svg_bytes(Path(path), size))).convert("RGBA")


def letterbox(image: PIL.Image.Image, size: int = SIZE) -> PIL.Image.Image:
    """RGB [size, size]: transparency onto white, padded with white to a square, scaled with Lanczos."""
    from PIL import Image

    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        image = trim(image)
        # reduce before compositing: the big pictures of a set would otherwise cost most of the time
        image.thumbnail((4 * size, 4 * size), Image.Resampling.BOX)
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), (255, 255, 255))
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return square


def trim(image: PIL.Image.Image, margin: float = 0.06) -> PIL.Image.Image:
    """Cut wide transparent borders of an RGBA picture down to `margin` of the longer side of what is drawn."""
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()
    if box is None:
        return image
    room = round(margin * max(box[2] - box[0], box[3] - box[1]))
    left, top = max(0, box[0] - room), max(0, box[1] - room)
    return image.crop((left, top, min(image.width, box[2] + room), min(image.height, box[3] + room)))


def colour_of(image: PIL.Image.Image, sure: float = SURE) -> str | None:
    """The one colour of a cut-out thing, or None when there is no transparent background or no clear winner."""
    if image.mode != "RGBA" or np.asarray(image.getchannel("A")).mean() > 248:  # fills its frame
        return None
    small = trim(image, 0.0).resize((64, 64), 4)  # 4 = box filter: averages, adds no new colours at edges
    pixels = np.asarray(small, dtype=np.float32).reshape(-1, 4)
    solid = pixels[pixels[:, 3] > 200][:, :3]
    if len(solid) < 120:  # a few lines
        return None
    found = name_colours(solid)
    values, counts = np.unique(found, return_counts=True)
    best = int(counts.argmax())
    # thin black outlines belong to the drawing style, so they do not count against a colour
    inked = counts.sum() - (counts[values == "black"].sum() if values[best] != "black" else 0)
    colour = str(values[best])
    if colour == "black" and len(solid) < INKED * 64 * 64:  # a line drawing, whose lines are black and not its thing
        return None
    clear = counts[best] / inked >= sure and counts[best] / counts.sum() > 0.5
    return colour if clear and colour not in ("white", "tan") else None


def name_colours(rgb: np.ndarray) -> np.ndarray:
    """Basic English colour words for pixels [N, 3] in 0..255; returns strings [N]."""
    scaled = rgb / 255.0
    high, low = scaled.max(1), scaled.min(1)
    chroma = high - low
    red, green, blue = scaled.T
    safe = np.where(chroma > 0, chroma, 1)
    not_red = np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    hue = 60 * np.where(high == red, (green - blue) / safe % 6, not_red)
    saturation = chroma / np.where(high > 0, high, 1)
    names = np.full(len(rgb), "red", dtype="<U8")
    steps = ((14, "orange"), (42, "yellow"), (68, "green"), (165, "blue"), (255, "purple"), (300, "pink"), (340, "red"))
    for start, name in steps:
        names[hue >= start] = name
    # between orange, brown and skin people do not agree, so those pixels get a word that is never asked for
    names[(hue >= 14) & (hue < 50) & (saturation < 0.75)] = "tan"
    names[(hue < 42) & (hue >= 8) & (high < 0.68)] = "brown"
    names[((hue < 14) | (hue >= 340)) & (saturation < 0.5) & (high > 0.75)] = "pink"
    names[(hue >= 42) & (hue < 60) & (high < 0.5)] = "brown"
    names[(saturation < 0.14) | (chroma < 0.08)] = "grey"
    names[(high > 0.9) & (saturation < 0.1)] = "white"
    names[high < 0.22] = "black"
    return names
