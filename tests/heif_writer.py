"""Writes small HEIC files, box by box: tiles coded by x265, put together as `heif.py` must read them."""

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

Property = tuple[bytes, bytes]


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def coded(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """A tile uint8 [H, W, 3] or [H, W], even sides -> (hvcC, sample)."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "tile.mp4")
        with av.open(path, "w") as container:
            stream = container.add_stream("libx265", rate=1, options={"crf": "4", "x265-params": "log-level=none"})
            grey = pixels.ndim == 2
            stream.height, stream.width = pixels.shape[:2]
            stream.pix_fmt = "gray" if grey else "yuv444p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gray" if grey else "rgb24")
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                packet.pts = packet.dts = 0
                container.mux(packet)
        with av.open(path) as container:
            packet = next(container.demux(video=0))
            return container.streams.video[0].codec_context.extradata, bytes(packet)


def heic(
    tiles: Sequence[np.ndarray],
    grid: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    turned: Sequence[Property] = (),
    alpha: np.ndarray | None = None,
    brand: bytes = b"heic",
) -> bytes:
    """A HEIC file.  grid: (rows, columns) of the tiles.  size: (width, height) of the picture.

    turned: irot, imir and clap of the primary item, in order.
    """
    items = [(b"hvc1", *coded(tile), tile.shape) for tile in tiles]
    if alpha is not None:
        items.append((b"hvc1", *coded(alpha), alpha.shape))
    properties: list[bytes] = []
    associations: dict[int, list[int]] = {}

    def associate(item: int, kind: bytes, body: bytes) -> None:
        properties.append(box(kind, body))
        associations.setdefault(item, []).append(len(properties))

    for item, (_, setup, _, shape) in enumerate(items, 1):
        associate(item, b"ispe", struct.pack(">III", 0, shape[1], shape[0]))
        associate(item, b"hvcC", setup)
    samples = [sample for _, _, sample, _ in items]
    kinds = [kind for kind, *_ in items]
    primary = 1
    references = b""
    if grid is not None:
        primary = len(kinds) + 1
        kinds.append(b"grid")
        samples.append(struct.pack(">BBBBHH", 0, 0, grid[0] - 1, grid[1] - 1, *size))
        associate(primary, b"ispe", struct.pack(">III", 0, *size))
        references += box(b"dimg", struct.pack(f">HH{len(tiles)}H", primary, len(tiles), *range(1, len(tiles) + 1)))
    if alpha is not None:
        associate(len(items), b"auxC", b"\0\0\0\0urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
        references += box(b"auxl", struct.pack(">HHH", len(items), 1, primary))
    for kind, body in turned:
        associate(primary, kind, body)

    entries = [box(b"infe", b"\2\0\0\0", struct.pack(">HH", i, 0), kind, b"\0") for i, kind in enumerate(kinds, 1)]
    linked = [struct.pack(f">HB{len(found)}B", item, len(found), *found) for item, found in associations.items()]
    head = box(b"ftyp", brand, b"\0\0\0\0mif1heic")

    def meta(start: int) -> bytes:
        places = b""
        for item, sample in enumerate(samples, 1):
            places += struct.pack(">HHHII", item, 0, 1, start, len(sample))
            start += len(sample)
        return box(
            b"meta",
            b"\0\0\0\0",
            box(b"hdlr", b"\0" * 8 + b"pict" + b"\0" * 13),
            box(b"pitm", b"\0\0\0\0", struct.pack(">H", primary)),
            box(b"iinf", b"\0\0\0\0", struct.pack(">H", len(entries)), *entries),
            box(b"iloc", b"\0\0\0\0\x44\0", struct.pack(">H", len(samples)), places),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", b"\0\0\0\0", struct.pack(">I", len(linked)), *linked)),
            box(b"iref", b"\0\0\0\0", references),
        )

    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", *samples)
