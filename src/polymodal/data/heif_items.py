"""The items of a HEIF file (ISO/IEC 23008-12): which picture is meant, of which tiles it is made, how it is turned.

    ftyp, meta(hdlr pitm iinf iloc iref iprp idat), mdat  ->  HeifItems: types, properties, references, bytes of an item

Only the boxes that lead to the pixels are read; Exif, thumbnails, depth and gain maps are items that nobody asks for.
Traps: an item's bytes lie in the file (construction method 0) or inside `meta` (1); properties that turn or cut are
applied in the order of their association; numbers grow with the version of their box.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from polymodal.data.source import OpenFile
from polymodal.errors import MediaError

MAX_META = 16 * 1024 * 1024  # bytes of the `meta` box; phones write a few kB
MAX_EXTENTS = 100_000  # pieces of all items together, since one may be stated in no byte
_MAX_BOXES = 10_000
_MAX_REUSE = 4  # times the file's size that all items together may take
Property = tuple[str, bytes]


class HeifDamaged(Exception):
    """Boxes that contradict each other or end too early; becomes a MediaError where the file's name is known."""


@dataclass
class HeifItems:
    """The items of one file, by their ids.

    references: (type, from id) -> ids, as ("dimg", grid) -> its tiles.  extents: id -> (construction method, offset,
    length) of its pieces; length 0 is up to the end.  taken: bytes of all items that were asked for.
    """

    opened: OpenFile
    primary: int = 0
    types: dict[int, str] = field(default_factory=dict)
    properties: dict[int, list[Property]] = field(default_factory=dict)
    references: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    extents: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    idat: bytes = b""
    taken: int = 0

    def get_property(self, item: int, kind: str) -> bytes | None:
        """The body of an item's first property of this kind."""
        return next((body for name, body in self.properties.get(item, ()) if name == kind), None)

    def size(self, item: int) -> tuple[int, int]:
        """(width, height) that an item claims, before it is turned."""
        body = Fields(self.get_property(item, "ispe") or b"")
        body.number(4)
        return body.number(4), body.number(4)

    def data(self, item: int) -> bytes:
        """The bytes of an item.  Raises MediaError when the file ends before them."""
        pieces, total = [], 0
        for method, offset, length in self.extents.get(item, ()):
            if method not in (0, 1):
                raise HeifDamaged
            end = self.opened.size if method == 0 else len(self.idat)
            length = length or max(0, end - offset)
            total += length
            self.taken += length
            # The same bytes again and again: in one item, or as hundreds of tiles.
            if total > self.opened.size or self.taken > _MAX_REUSE * self.opened.size + MAX_META:
                raise HeifDamaged
            if offset + length > end:
                raise MediaError(
                    f"{self.opened.name} is cut short: its header claims {offset + length:,} bytes, found {end:,}"
                )
            if method == 0:
                self.opened.file.seek(offset)
                pieces.append(self.opened.file.read(length))
            else:
                pieces.append(self.idat[offset : offset + length])
        return b"".join(pieces)

    def alpha_of(self, item: int) -> int | None:
        """The item that holds the transparency of `item`."""
        for (kind, source), targets in self.references.items():
            auxiliary = self.get_property(source, "auxC") or b""
            if kind == "auxl" and item in targets and (b":alpha" in auxiliary or b"hevc:2015:auxid:1" in auxiliary):
                return source
        return None


class Fields:
    """Reads big-endian numbers from the body of a box, one after another."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def number(self, size: int, signed: bool = False) -> int:
        """The next `size` bytes as a number; 0 bytes are 0."""
        return int.from_bytes(self.take(size), "big", signed=signed)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        data = self._file.read(size)
        if len(data) < size:
            raise HeifDamaged
        return data

    def rest(self) -> bytes:
        """What is left."""
        return self._file.read()


def read_items(opened: OpenFile) -> HeifItems:
    """The items of an opened file.  Raises HeifDamaged."""
    items = HeifItems(opened)
    meta = Fields(_meta(opened))
    meta.number(4)
    for kind, body in boxes(meta.rest()):
        fields = Fields(body)
        if kind == "pitm":
            items.primary = fields.number(4 if fields.number(4) >> 24 else 2)
        elif kind == "iinf":
            _read_types(fields, items)
        elif kind == "iloc":
            _read_extents(fields, items)
        elif kind == "iref":
            _read_references(fields, items)
        elif kind == "iprp":
            _read_properties(body, items)
        elif kind == "idat":
            items.idat = body
    if items.primary not in items.types:
        raise HeifDamaged
    return items


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(type, body) of each box in `data`."""
    start = 0
    while start + 8 <= len(data):
        size, header = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or len(data) - start
        if size < header or start + size > len(data):
            raise HeifDamaged
        yield data[start + 4 : start + 8].decode("latin-1"), data[start + header : start + size]
        start += size


def _meta(opened: OpenFile) -> bytes:
    """The body of the file's `meta` box."""
    file, start = opened.file, 0
    for _ in range(_MAX_BOXES):
        if start >= opened.size:
            break
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            break
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(head[8:], "big"), 16
        size = size or opened.size - start
        if size < header:
            break
        if head[4:8] == b"meta":
            if size > MAX_META:
                raise HeifDamaged
            file.seek(start + header)
            body = file.read(size - header)
            if len(body) < size - header:
                break
            return body
        start += size
    raise HeifDamaged


def _read_types(fields: Fields, items: HeifItems) -> None:
    fields.number(2 if fields.number(4) >> 24 == 0 else 4)
    for kind, body in boxes(fields.rest()):
        entry = Fields(body)
        version = entry.number(4) >> 24
        if kind == "infe" and version >= 2:
            item = entry.number(2 if version == 2 else 4)
            entry.number(2)  # protection
            items.types[item] = entry.take(4).decode("latin-1")


def _read_extents(fields: Fields, items: HeifItems) -> None:
    version, sizes = fields.number(4) >> 24, fields.number(2)
    left = MAX_EXTENTS
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(fields.number(4 if version == 2 else 2)):
        item = fields.number(4 if version == 2 else 2)
        method = fields.number(2) & 15 if version else 0
        fields.number(2)  # data reference: this file
        base = fields.number(base_size)
        pieces = items.extents.setdefault(item, [])
        count = fields.number(2)
        left -= count
        if left < 0:
            raise HeifDamaged
        for _ in range(count):
            if version:
                fields.number(index_size)
            pieces.append((method, base + fields.number(offset_size), fields.number(length_size)))


def _read_references(fields: Fields, items: HeifItems) -> None:
    size = 4 if fields.number(4) >> 24 else 2
    for kind, body in boxes(fields.rest()):
        entry = Fields(body)
        source = entry.number(size)
        items.references[kind, source] = [entry.number(size) for _ in range(entry.number(2))]


def _read_properties(data: bytes, items: HeifItems) -> None:
    children = list(boxes(data))
    known = [each for kind, body in children if kind == "ipco" for each in boxes(body)]
    for body in (body for kind, body in children if kind == "ipma"):
        fields = Fields(body)
        flags = fields.number(4)
        for _ in range(fields.number(4)):
            item = fields.number(2 if flags >> 24 == 0 else 4)
            for _ in range(fields.number(1)):
                index = fields.number(2) & 0x7FFF if flags & 1 else fields.number(1) & 0x7F
                if index > len(known):
                    raise HeifDamaged
                if index:
                    items.properties.setdefault(item, []).append(known[index - 1])
