"""Files of region features: what a detector said of the boxes of a picture, computed beforehand.

    .npz   features [R, F], and norm_bb [R, 4 or more] (shares of the picture) or boxes [R, 4] (pixels) with image_w and
           image_h; conf [R] and soft_labels [R, C] where they are there (UNITER's files), and by the names of LXMERT's
           columns what the detector called each region
    .tsv   a line a picture, of bottom-up attention: image_id, image_w, image_h, num_boxes, boxes, features; or of
           LXMERT: img_id, img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf, num_boxes, boxes, features
           arrays are base64 of float32 (int64 for ids), and there is no line of names
    -> RegionFeatures: features [R, F] float32, boxes [R, 4] as shares of the picture (x1, y1, x2, y2)
A .tsv of many pictures is read at the line of the picture that is asked for (`RegionTable`).

Bottom-up attention: arXiv 1707.07998.  Traps: the two tsv kinds say width and height in different orders; a file may
hold half-precision features.  Nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.array import read_array
from polymodal.data.limits import DEFAULT_LIMITS, Limits, how_to_raise
from polymodal.data.media import Media
from polymodal.data.source import clean_name, megabytes, open_source
from polymodal.errors import MediaError
from polymodal.files import open_regular

BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
          "features")  # fmt: skip
LABELS = {"objects": ("objects_id", "objects_conf"), "attributes": ("attrs_id", "attrs_conf")}
"""What a detector calls a region: its number, and how sure it is."""
SLACK = 0.01  # of the picture's side, by which a detector's box may end outside of it
MOST_REGIONS = 1000
LONGEST = 1 << 26  # bytes of one line of a .tsv file


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionFeatures:
    """features float32 [R, F]; boxes float32 [R, 4] within 0 .. 1; scores [R] and classes [R, C], None where unknown.

    labels: "objects" and "attributes" int64 [R], what the detector calls each; confidence: how sure it is of them [R].
    Raises MediaError for counts that differ, numbers that are none and boxes outside the picture.
    """

    features: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None = None
    classes: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    confidence: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = "regions"

    def __post_init__(self) -> None:
        count = len(self.features) if self.features.ndim == 2 else -1
        if count < 1 or self.boxes.shape != (count, 4):
            raise MediaError(
                f"{self.name}: expected features [R, F] and boxes [R, 4] of one region or more, found "
                f"{list(self.features.shape)} and {list(self.boxes.shape)}"
            )
        if count > MOST_REGIONS:
            raise MediaError(f"{self.name}: {count} regions, the limit is {MOST_REGIONS}")
        told = (("scores", self.scores), ("classes", self.classes), *self.labels.items(), *self.confidence.items())
        for what, found in told:
            if found is not None and len(found) != count:
                raise MediaError(f"{self.name}: {count} regions, but {what} of {len(found)}")
        for what, found in (("features", self.features), ("boxes", self.boxes)):
            if not np.isfinite(found).all():
                row = int(np.argwhere(~np.isfinite(found).all(1))[0, 0])
                raise MediaError(f"{self.name}: {what} of region {row} are not finite")
        wrong = (self.boxes < -SLACK).any(1) | (self.boxes > 1 + SLACK).any(1)
        wrong |= (self.boxes[:, 2:] < self.boxes[:, :2]).any(1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise MediaError(
                f"{self.name}: box {row} is {', '.join(f'{x:.3g}' for x in self.boxes[row])}; expected x1 <= x2 and "
                "y1 <= y2 within the picture, as shares of its sides"
            )

    @property
    def best(self) -> np.ndarray:
        """Indices of the regions, the surest first; in the order of the file where no scores are known."""
        return np.arange(len(self.features)) if self.scores is None else np.argsort(-self.scores, kind="stable")


Detector = Callable[[Any], RegionFeatures]
"""Picture (Pillow, RGB) -> its regions: what makes these files, as a part that a person can plug in."""


@dataclass(frozen=True, repr=False)
class Regions(Media):
    """The regions of a picture: a RegionFeatures, or the path or bytes of a .npz file, or of a .tsv file with the
    image_id of the picture, where it holds several."""

    source: Any
    limits: Limits = DEFAULT_LIMITS
    image_id: str | None = None
    modality: str = field(default="regions", kw_only=True)

    @cached_property
    def values(self) -> RegionFeatures:
        """What is in it.  Raises MediaError."""
        if isinstance(self.source, RegionFeatures):
            return self.source
        if not isinstance(self.source, str | os.PathLike | bytes):
            found = type(self.source).__name__
            raise MediaError(f"regions: expected a path, bytes or RegionFeatures, found {found}")
        if self.image_id is not None and isinstance(self.source, str | os.PathLike) and is_table(self.source):
            return table_of(os.fspath(self.source), os.stat(self.source).st_mtime_ns).regions(self.image_id)
        with open_source(self.source, self.limits) as opened:
            data, name = opened.file.read(), opened.name
        if data.startswith(b"PK"):
            return read_npz(data, self.limits, name)
        rows = [(key, row) for key, row in read_tsv(data.decode("latin-1"), name, only=self.image_id)]
        if len(rows) != 1:
            wanted = "one picture" if self.image_id is None else f"the picture {clean_name(self.image_id)!r} once"
            raise MediaError(f"{name}: expected {wanted}, found {len(rows)}; a Regions names its image_id")
        return rows[0][1]

    def __repr__(self) -> str:
        shown = clean_name(os.path.basename(self.source)) if isinstance(self.source, str | os.PathLike) else "data"
        return f"Regions({shown}{'' if self.image_id is None else f', {clean_name(self.image_id)}'})"


def read_npz(source: bytes, limits: Limits = DEFAULT_LIMITS, name: str = "regions") -> RegionFeatures:
    """The regions in the bytes of a .npz file.  Raises MediaError."""
    try:
        with zipfile.ZipFile(io.BytesIO(source)) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            if (total := sum(sizes.values())) > limits.bytes:
                raise MediaError(
                    f"{name} unpacks to {megabytes(total)}, the limit is {megabytes(limits.bytes)} "
                    f"({how_to_raise('bytes', total)})"
                )
            known = (
                "features",
                "norm_bb",
                "boxes",
                "image_w",
                "image_h",
                "conf",
                "soft_labels",
                *sum(LABELS.values(), ()),
            )
            found = {each: read_array(archive.read(f"{each}.npy"), limits) for each in known if each in sizes}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as problem:
        raise MediaError(f"{name} is not a .npz file, or is damaged: {problem}") from problem
    if "features" not in found or not {"norm_bb", "boxes"} & set(found):
        raise MediaError(f"{name}: expected arrays features and norm_bb or boxes, found {', '.join(sorted(sizes))}")
    if "norm_bb" in found:
        boxes = found["norm_bb"][:, :4] if found["norm_bb"].ndim == 2 else found["norm_bb"]
    else:
        if not {"image_w", "image_h"} <= set(found):
            raise MediaError(f"{name}: boxes in pixels need image_w and image_h")
        sides = found["image_w"].reshape(-1)[0], found["image_h"].reshape(-1)[0]
        boxes = _shares(found["boxes"], float(sides[0]), float(sides[1]), name)
    return RegionFeatures(
        features=found["features"].astype(np.float32), boxes=boxes.astype(np.float32), scores=found.get("conf"),
        classes=found.get("soft_labels"), name=name, **_told(found),
    )  # fmt: skip


def _told(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """labels and confidence, as far as they are there."""
    return {
        "labels": {name: found[ids].reshape(-1) for name, (ids, _) in LABELS.items() if ids in found},
        "confidence": {name: found[sure].reshape(-1) for name, (_, sure) in LABELS.items() if sure in found},
    }


def read_tsv(
    lines: str | Iterator[str], name: str = "regions", only: str | None = None
) -> Iterator[tuple[str, RegionFeatures]]:
    """(image_id, regions) of each line, or of those with the image_id `only`.  lines: the whole text, or lines of it
    as an open file gives them, so that a file of any size can be read.  Raises MediaError naming the line."""
    for number, line in enumerate(io.StringIO(lines) if isinstance(lines, str) else lines, start=1):
        if line.strip() and (only is None or line.partition("\t")[0] == only):
            found = _line(line, f"{name}, line {number}")
            if found is not None:
                yield found


def _line(line: str, where: str) -> tuple[str, RegionFeatures] | None:
    """image_id and regions; None of a line of names."""
    cells = line.rstrip("\r\n").split("\t")
    names = {len(BOTTOM_UP): BOTTOM_UP, len(LXMERT): LXMERT}.get(len(cells))
    if names is None:
        raise MediaError(f"{where}: expected {len(BOTTOM_UP)} or {len(LXMERT)} columns, found {len(cells)}")
    return None if tuple(cells) == names else (cells[0], _row(dict(zip(names, cells, strict=True)), where))


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether it is a .tsv file on this machine, by its name."""
    return os.fspath(path).lower().endswith(".tsv") and os.path.isfile(path)


class RegionTable:
    """A .tsv of many pictures: at which byte each begins, so that one is read alone.  Raises MediaError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.starts: dict[str, int] = {}
        at = 0
        with open_regular(Path(path), error=MediaError) as file:
            while line := file.readline(LONGEST + 1):
                if len(line) > LONGEST:
                    raise MediaError(f"{clean_name(os.path.basename(path))}: a line of more than {megabytes(LONGEST)}")
                if line.strip():
                    self.starts.setdefault(line.partition(b"\t")[0].decode("latin-1"), at)
                at += len(line)

    def regions(self, image_id: str) -> RegionFeatures:
        """Of one picture."""
        name = clean_name(os.path.basename(self.path))
        if image_id not in self.starts:
            raise MediaError(f"{name}: has no picture {clean_name(image_id)!r} among its {len(self.starts)}")
        with open_regular(Path(self.path), error=MediaError) as file:
            file.seek(self.starts[image_id])
            found = _line(file.readline().decode("latin-1"), f"{name}, {clean_name(image_id)}")
        if found is None:
            raise MediaError(f"{name}: {clean_name(image_id)!r} is a line of names")
        return found[1]


@lru_cache(maxsize=16)
def table_of(path: str, changed: int) -> RegionTable:
    """The table of a file, once for each change of it."""
    return RegionTable(path)


def _row(cells: Mapping[str, str], where: str) -> RegionFeatures:
    sides = []
    for name in (("image_w", "image_h") if "image_w" in cells else ("img_w", "img_h")) + ("num_boxes",):
        try:
            sides.append(int(float(cells[name])))
        except (ValueError, OverflowError):
            raise MediaError(f"{where}: {name} is {clean_name(cells[name])!r}, expected a whole number") from None
    width, height, count = sides
    if not 1 <= count <= MOST_REGIONS:
        raise MediaError(f"{where}: {count} boxes; expected 1 to {MOST_REGIONS}")
    boxes = _decoded(cells, "boxes", count, where)
    if boxes.shape[1] != 4:
        raise MediaError(f"{where}: boxes hold {boxes.size} numbers, {count} boxes need {4 * count}")
    told = {name: _decoded(cells, name, count, where, "<i8" if name.endswith("_id") else "<f4")[:, 0]
            for pair in LABELS.values() for name in pair if name in cells}  # fmt: skip
    return RegionFeatures(
        features=_decoded(cells, "features", count, where), boxes=_shares(boxes, width, height, where),
        scores=told.get("objects_conf"), name=where, **_told(told),
    )  # fmt: skip


def _decoded(cells: Mapping[str, str], name: str, count: int, where: str, kind: str = "<f4") -> np.ndarray:
    """One cell as numbers [count, n]: float32, or int64 for ids."""
    try:
        data = base64.b64decode(cells[name], validate=True)
    except (binascii.Error, ValueError) as problem:
        raise MediaError(f"{where}: {name} is not base64: {problem}") from None
    dtype = np.dtype(kind)
    if not data or len(data) % (dtype.itemsize * count):
        raise MediaError(f"{where}: {name} holds {len(data)} bytes, which is no {dtype.name} for each of {count} boxes")
    return np.frombuffer(data, dtype).reshape(count, -1).astype(dtype.newbyteorder("="))


def _shares(boxes: np.ndarray, width: float, height: float, name: str) -> np.ndarray:
    """Boxes in pixels as shares of the picture."""
    if not (width > 0 and height > 0):
        raise MediaError(f"{name}: a picture of {width:g} x {height:g} pixels")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise MediaError(f"{name}: expected boxes [R, 4], found {list(boxes.shape)}")
    return (boxes / np.array([width, height, width, height], np.float32)).astype(np.float32)


def tsv_line(image_id: str, sides: Sequence[int], boxes: np.ndarray, features: np.ndarray) -> str:
    """A line of a bottom-up attention file.  sides: (width, height) in pixels; boxes [R, 4] in pixels."""
    arrays = [base64.b64encode(np.ascontiguousarray(each, "<f4").tobytes()).decode() for each in (boxes, features)]
    return "\t".join((image_id, str(sides[0]), str(sides[1]), str(len(boxes)), *arrays)) + "\n"
