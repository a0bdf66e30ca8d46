"""Items of a set -> a folder that training and evaluation read: JSON lines for each side, and the media beside them.

    out/train.jsonl, val.jsonl, test.jsonl       the set's own records; media are paths relative to the file
    out/languages/fr/train.jsonl, ...            the same pictures with French texts
    out/pictures, sounds, speech                 media
    out/licenses                                 what each package says of its licence
    out/SHA256SUMS                               of every file but the next
    out/manifest.json                            packages with hashes, split rule, counts; written last

Near-duplicates: a training or validation picture within `NEAR` bits of a test picture is removed, and a training
picture that near a validation picture.  Trap: this looks inside one set, and not across several.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from polymodal.data.image import read_image
from polymodal.data.sets.record import Content, DataSet, Item
from polymodal.data.sets.split import NEAR, RULE, dhash, near_any, split_of
from polymodal.data.sets.sums import write_sums
from polymodal.data.sets.svg import NoSVG
from polymodal.errors import MediaError

MANIFEST = "manifest.json"
SIDES = ("train", "val", "test")
LICENSES = ("copyright", "license", "license.txt", "license.md", "provenance.md", "metadata")
FORM = 1  # of the folder: raised when the same packages are written differently
Report = Callable[[int], object]


@dataclass
class Written:
    """What stands in the folder so far.  hashes: of pictures alone, None for other media."""

    items: list[Item] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    hashes: list[int | None] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def write(record: DataSet, folder: Path, out: Path, report: Report = lambda done: None) -> dict[str, Any]:
    """Read the unpacked packages in `folder` and write the set into `out`; gives the manifest.

    report: called with the bytes of media that are written.  Raises MediaError where the packages hold something else.
    """
    written = _media(record.read(folder), out, report)
    removed = _guard(written, out)
    tables = _tables(written, removed)
    for (table, side), lines in tables.items():
        path = out / table / f"{side}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    _licenses(folder, out)
    counts: dict[str, dict[str, int]] = {}
    for (table, side), lines in tables.items():
        counts.setdefault(table or record.name, {})[side] = len(lines)
    gone = Counter(written.sides[index] for index in removed)
    manifest = {
        **described(record),
        "counts": counts,
        "removed_near": {side: gone[side] for side in SIDES if gone[side]},
        "left_out": dict(sorted(written.left_out.items())),
        "polymodal": version("polymodal"),
    }
    write_sums(out)
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def described(record: DataSet) -> dict[str, Any]:
    """What a manifest must agree with for the folder to be this very set."""
    keys = ("kind", "name", "version", "sha256", "size", "license")
    packages = [{key: asdict(package)[key] for key in keys} for package in record.packages]
    return {
        "set": record.name,
        "form": FORM,
        "license": record.license,
        "packages": packages,
        "key": record.key,
        "split": RULE,
        "near_bits": NEAR,
    }


def _media(items: Iterable[Item], out: Path, report: Report) -> Written:
    """Write all media; an item whose media cannot be had is left out and counted by why."""
    written, done = Written(), 0
    for item in items:
        try:
            media = {name: _read(content) for name, content in item.media.values()}
            code = dhash(read_image(media[item.media["image"][0]])) if "image" in item.media else None
        except NoSVG:
            written.left_out["drawings, which need resvg-py"] += 1
            continue
        except (MediaError, OSError, ValueError):
            written.left_out["damaged, or larger than pictures may be"] += 1
            continue
        for name, data in media.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
            done += len(data)
        written.items.append(item)
        written.sides.append(item.split or split_of(item.key))
        written.hashes.append(code)
        report(done)
    return written


def _read(content: Content) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content()


def _guard(written: Written, out: Path) -> set[int]:
    """The items that go, their media with them."""
    pictures = np.array([index for index, code in enumerate(written.hashes) if code is not None], np.int64)
    codes = np.array([code for code in written.hashes if code is not None], np.uint64)
    sides = np.array([written.sides[index] for index in pictures])
    gone = np.zeros(len(pictures), bool)
    if len(pictures):
        for side, others in (("val", ("test",)), ("train", ("test", "val"))):
            against = codes[np.isin(sides, others) & ~gone].tolist()
            gone[sides == side] = near_any(codes[sides == side].tolist(), against)
    removed = set(pictures[gone].tolist())
    kept = {name for index, item in enumerate(written.items) if index not in removed for name, _ in item.media.values()}
    for index in removed:
        for name, _ in written.items[index].media.values():
            if name not in kept:
                (out / name).unlink(missing_ok=True)
    return removed


def _tables(written: Written, removed: set[int]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(table, side) -> its records; every table has all three sides."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for index, (item, side) in enumerate(zip(written.items, written.sides, strict=True)):
        if index in removed:
            continue
        for table, record in item.tables.items():
            for each in SIDES:
                tables.setdefault((table, each), [])
            tables[table, side].append({"id": item.id, **_paths(item, table), **record})
    return tables


def _paths(item: Item, table: str) -> Mapping[str, str]:
    up = "../" * len(PurePosixPath(table).parts)
    return {kind: f"{up}{name}" for kind, (name, _) in item.media.items()}


def _licenses(folder: Path, out: Path) -> None:
    """Copy what the packages say of their licences: the nearest such files of each."""
    for package in sorted(each for each in folder.iterdir() if each.is_dir()):
        found = [path for path in sorted(package.rglob("*")) if path.name.lower() in LICENSES and path.is_file()]
        nearest = min((len(path.parts) for path in found), default=0)
        for path in (each for each in found if len(each.parts) == nearest):
            target = out / "licenses" / f"{package.name}-{path.name}"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
            os.chmod(target, 0o644)
