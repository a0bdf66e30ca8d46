"""Reading HEIC photographs, as phones save them: the whole picture out of its tiles, upright, RGB.

    items (heif_items.py) -> primary item: coded, a grid of tiles, or another item turned
    -> each tile through PyAV's HEVC decoder -> pasted -> rotated, mirrored, cut -> transparency over a background

FFmpeg gives every tile as a video stream of its own and PyAV does not say how they belong together, so a file read as a
video would be its top left tile; the boxes are read here.
Traps: the size is checked before a tile is decoded, and again by the decoder; Exif orientation is ignored, the boxes
`irot` and `imir` say it; the matrix of `colr` wins over what the coded stream says.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image as Pillow

from polymodal.data.heif_items import Fields, HeifDamaged, HeifItems, read_items
from polymodal.data.limits import Limits
from polymodal.data.source import OpenFile
from polymodal.errors import MediaError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Colour = tuple[int, int, int]
MAX_TILES = 4096  # 200 megapixels in tiles of 512 are 800
MAX_CHANGES = 16  # turns, mirrorings and crops of one item; a phone writes two
_CHANGES = ("irot", "imir", "clap")
_CODECS = {"hvc1": ("hevc", "hvcC"), "avc1": ("h264", "avcC")}
_QUARTER_TURNS = (None, Pillow.Transpose.ROTATE_90, Pillow.Transpose.ROTATE_180, Pillow.Transpose.ROTATE_270)
_MIRRORED = (Pillow.Transpose.FLIP_TOP_BOTTOM, Pillow.Transpose.FLIP_LEFT_RIGHT)
_MATRICES = (1, 4, 5, 6, 7, 9)  # of ITU-T H.273, which FFmpeg numbers alike

ScaleFactor = Callable[[tuple[int, int]], int]
"""(width, height) -> the whole number by which a picture is scaled down; raises MediaError for one over a limit."""


def read_heif(opened: OpenFile, limits: Limits, background: Colour, scale_factor: ScaleFactor) -> Pillow.Image:
    """The primary picture of a HEIF file, mode RGB.

    Raises MediaError for what is damaged, cut short, over a limit, or coded in a way that is not read here.
    """
    try:
        items = read_items(opened)
        factor = scale_factor(items.size(items.primary))
        reader = _Reader(items, limits, factor)
        picture = reader.item(items.primary)
        alpha = items.alpha_of(items.primary)
        if alpha is None:
            return picture
        scale_factor(items.size(alpha))
        picture.putalpha(reader.item(alpha, "L").resize(picture.size))
        canvas = Pillow.new("RGBA", picture.size, (*background, 255))
        return Pillow.alpha_composite(canvas, picture).convert("RGB")
    except HeifDamaged as error:
        raise MediaError(f"{opened.name} is damaged or cut short: its HEIF boxes cannot be read") from error


class _Reader:
    """Renders items of one file, scaled down by `factor`."""

    def __init__(self, items: HeifItems, limits: Limits, factor: int) -> None:
        self.items = items
        self.limits = limits
        self.factor = factor

    def item(self, item: int, mode: str = "RGB", depth: int = 0) -> Pillow.Image:
        """An item with its rotation, mirroring and crop applied."""
        kind, sources = self.items.types.get(item), self.items.references.get(("dimg", item), [])
        if kind in _CODECS:
            picture = self._tile(item, mode)
        elif kind == "grid":
            picture = self._grid(item, sources, mode)
        elif kind == "iden" and len(sources) == 1 and depth < 4:
            picture = self.item(sources[0], mode, depth + 1)
        else:
            raise self._not_read(kind)
        changes = [each for each in self.items.properties.get(item, ()) if each[0] in _CHANGES]
        if len(changes) > MAX_CHANGES:
            raise HeifDamaged
        for name, body in changes:
            picture = self._transformed(picture, name, Fields(body))
        return picture

    def _not_read(self, kind: str | None) -> MediaError:
        return MediaError(
            f"{self.items.opened.name} is a HEIF picture of a kind that is not read here ({kind}); convert it first, "
            "as with: heif-convert photo.heic photo.jpg"
        )

    def _scaled(self, size: float) -> int:
        """A length in pixels of the file as pixels of the result."""
        return max(1, -(-round(size) // self.factor))

    def _grid(self, item: int, tiles: list[int], mode: str) -> Pillow.Image:
        fields = Fields(self.items.data(item))
        fields.number(1)
        flags = fields.number(1)
        rows, columns = fields.number(1) + 1, fields.number(1) + 1
        width, height = (fields.number(4 if flags & 1 else 2) for _ in range(2))
        if len(tiles) != rows * columns or len(tiles) > MAX_TILES or (width, height) != self.items.size(item):
            raise HeifDamaged
        across, down = self.items.size(tiles[0])
        # Tiles that reach beyond the picture would cost more than its size says.
        if not ((columns - 1) * across < width <= columns * across and (rows - 1) * down < height <= rows * down):
            raise HeifDamaged
        canvas = Pillow.new(mode, (self._scaled(width), self._scaled(height)))
        for index, tile in enumerate(tiles):
            if self.items.types.get(tile) not in _CODECS:
                raise self._not_read(self.items.types.get(tile))
            if self.items.size(tile) != (across, down):
                raise HeifDamaged
            row, column = divmod(index, columns)
            canvas.paste(self._tile(tile, mode), (column * across // self.factor, row * down // self.factor))
        return canvas

    def _tile(self, item: int, mode: str) -> Pillow.Image:
        """A coded item as the decoder gives it."""
        frame = _decoded(self.items, item, self.limits)
        if (frame.width, frame.height) != self.items.size(item):
            raise HeifDamaged
        colour = self.items.get_property(item, "colr")
        if colour is not None and colour[:4] == b"nclx":
            _set_colour(frame, Fields(colour[4:]))
        size = self._scaled(frame.width), self._scaled(frame.height)
        shrink = "AREA" if self.factor > 1 else None
        frame = frame.reformat(*size, format="gray" if mode == "L" else "rgb24", interpolation=shrink)
        return Pillow.fromarray(frame.to_ndarray())

    def _transformed(self, picture: Pillow.Image, name: str, fields: Fields) -> Pillow.Image:
        if name == "irot":
            turn = _QUARTER_TURNS[fields.number(1) & 3]
            return picture if turn is None else picture.transpose(turn)
        if name == "imir":
            return picture.transpose(_MIRRORED[fields.number(1) & 1])
        numbers = [(fields.number(4, signed=True), fields.number(4, signed=True)) for _ in range(4)]
        if any(below == 0 for _, below in numbers):
            raise HeifDamaged
        width, height, right, lower = (above / below / self.factor for above, below in numbers)
        left, top = (picture.width - width) / 2 + right, (picture.height - height) / 2 + lower
        box = round(left), round(top), round(left + width), round(top + height)
        if not (0 <= box[0] < box[2] <= picture.width and 0 <= box[1] < box[3] <= picture.height):
            raise HeifDamaged
        return picture.crop(box)


def _decoded(items: HeifItems, item: int, limits: Limits) -> "VideoFrame":
    """The one frame of a coded item."""
    import av
    from av.video.codeccontext import VideoCodecContext

    codec, setup = _CODECS[items.types[item]]
    configuration, data = items.get_property(item, setup), items.data(item)
    if configuration is None or not data:
        raise HeifDamaged
    try:
        context = av.CodecContext.create(codec, "r")
    except ValueError as error:
        raise MediaError(
            f"{items.opened.name} is a HEIC picture and this PyAV has no {codec} decoder; convert it first, "
            "as with: heif-convert photo.heic photo.jpg"
        ) from error
    assert isinstance(context, VideoCodecContext)
    try:
        context.extradata = configuration
        context.thread_count = 1
        context.options = {"max_pixels": str(int(limits.source_pixels))}
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except Exception as error:  # FFmpegError, but also ValueError, EOFError, ... on damaged data
        raise HeifDamaged from error
    if len(frames) != 1:
        raise HeifDamaged
    return frames[0]


def _set_colour(frame: "VideoFrame", fields: Fields) -> None:
    """Matrix and range as a `colr` box of kind nclx gives them."""
    fields.take(4)  # primaries and transfer: the picture stays in its colours, as a JPEG with a profile does
    matrix, full_range = fields.number(2), fields.number(1) >> 7
    if matrix in _MATRICES:
        frame.colorspace = matrix
    frame.color_range = 2 if full_range else 1
