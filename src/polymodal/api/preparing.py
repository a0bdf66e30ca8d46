"""Lists of samples become WebDataset shards, their media beside them: pictures decoded once and made smaller.

    prepare("talks.jsonl", "shards", PrepareOptions(side=336, workers=8))
    shards/data-00000.tar, data-00001.tar, ...     000000.0.jpg, 000000.json: what the list says of the sample, without
                                                   its media, whose places in the texts stay marked
    shards/data-00000.json                         samples, bytes, SHA-256, and what was left out, with the reason
    shards/prepared.json                           of what, and how

A shard depends on its samples alone: several processes (Ray, api/ray_workers.py), or one, write the same bytes.  Shards
that stand are kept, so that what was interrupted goes on.  `polymodal train --data shards` reads all of them.
Traps: a picture that is not larger than `side` is copied as it is; regions, features and actions stay where they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from polymodal.data.datasets.collected import KIND
from polymodal.data.datasets.listed import ListedSamples, Parquet
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.datasets.records import MEDIA
from polymodal.data.media import Image
from polymodal.errors import ConfigError, MediaError, PolymodalError, PromptError
from polymodal.files import read_bytes, read_json

PACKED = ("image", "audio", "video")
PLAIN = {"image": "png", "audio": "wav", "video": "mp4"}  # suffixes of what a list holds as bytes
LARGEST = 1 << 30  # bytes of one medium
NOTE = "prepared.json"
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """side: pixels of the shorter side of a picture at most; None: as they are.  quality: of JPEG files that smaller
    pictures become.  shard: samples of one.  workers: processes; 0: this one.  media_root: what paths are relative to.
    """

    side: int | None = None
    quality: int = 95
    shard: int = 1000
    workers: int = 0
    media_root: str = ""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What a worker needs."""

    data: str
    out: str
    options: PrepareOptions


def prepare(
    data: str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    done: Callable[[int, int], object] = lambda count, total: None,
) -> Line:
    """Write the shards that are not there yet; returns what `prepared.json` says.

    Raises ConfigError for data that is no list, for a folder that holds shards of other data or options, and for a list
    of which every sample is damaged.
    """
    options = options or PrepareOptions()
    if options.shard < 1 or (options.side is not None and options.side < 1) or not 1 <= options.quality <= 100:
        raise ConfigError("prepare: expected side and shard of 1 or more, and a quality of 1 to 100")
    work = Packing(data=str(Path(data).absolute()), out=str(Path(out).absolute()), options=options)
    dataset, folder = opened(work), Path(work.out)
    how = {name: value for name, value in asdict(options).items() if name not in ("workers", "media_root")}
    about = {"data": dataset.manifest(), **how}
    settle(folder, about)
    count = math.ceil(len(dataset) / options.shard)
    missing = [number for number in range(count) if not stands(folder / name_of(number))]
    for number, _ in enumerate(packed(work, missing), start=count - len(missing) + 1):
        done(number, count)
    shards = [read_json(told_of(folder / name_of(number)), error=ConfigError) for number in range(count)]
    if not sum(each["samples"] for each in shards):
        raise ConfigError(f"{data}: every sample is damaged, as {shards[0]['skipped'][0]}")
    write_whole(folder / NOTE, json.dumps({**about, "shards": shards}, indent=1).encode())
    return {**about, "shards": shards}


def settle(folder: Path, about: Mapping[str, Any]) -> None:
    """Note what the folder is for.  Raises ConfigError where it holds something else."""
    note = folder / NOTE
    if note.is_file():
        held = {name: value for name, value in read_json(note, error=ConfigError).items() if name != "shards"}
        if held != json.loads(json.dumps(about)):
            odd = next(name for name in about if held.get(name) != json.loads(json.dumps(about[name])))
            raise ConfigError(f"{folder} holds shards of another {odd}; name another folder, or remove it")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no shards; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(about, indent=1).encode())


def opened(work: Packing) -> ListedSamples | Parquet:
    """The list.  Raises ConfigError for data that lists nothing."""
    root = Path(work.options.media_root) if work.options.media_root else None
    found = open_dataset(Path(work.data), root)
    if not isinstance(found, ListedSamples | Parquet):
        raise ConfigError(f"{work.data} is a {found.kind}; expected .jsonl, .json, .csv, .tsv or .parquet")
    return found


def packed(work: Packing, numbers: Sequence[int]) -> Iterator[Line]:
    """The shards of these numbers, written, by this process or by workers."""
    if not numbers:
        return
    if not work.options.workers:
        packer = Packer(work)
        yield from map(packer.write, numbers)
        return
    from polymodal.api.ray_workers import cluster, told

    with cluster(work.options.workers) as (ray, each):
        dealt = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
        written = dealt.map_batches(
            Packer,
            fn_constructor_args=(work,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=work.options.workers),
            num_cpus=each["num_cpus"],
        )
        for row in written.iter_rows():
            yield told(json.loads(row["told"]))


class Packer:
    """The list, opened; of Ray an actor."""

    def __init__(self, work: Packing) -> None:
        self.work = work
        self.dataset = opened(work)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        found = []
        for number in batch["shard"]:
            try:
                said: Line = {"lines": self.write(int(number))}
            except PolymodalError as problem:
                said = {"error": type(problem).__name__, "message": str(problem)}
            found.append(json.dumps(said))
        return {"told": found}

    def write(self, number: int) -> Line:
        """One shard, and behind it what is noted of it; no file of one whose samples are all damaged."""
        file = Path(self.work.out) / name_of(number)
        first = number * self.work.options.shard
        whole, skipped, samples = io.BytesIO(), [], 0
        with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for index in range(first, min(first + self.work.options.shard, len(self.dataset))):
                try:
                    members = self.members(index)
                except (PromptError, MediaError) as problem:
                    text, name = str(problem), self.dataset.name(index)
                    skipped.append(text if text.startswith(name) else f"{name}: {text}")
                    continue
                samples += 1
                for suffix, data in members:
                    about = tarfile.TarInfo(f"{index:06d}.{suffix}")
                    about.size, about.mode = len(data), 0o644
                    archive.addfile(about, io.BytesIO(data))
        data = whole.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        said = {"file": file.name, "samples": samples, "bytes": len(data), "sha256": digest, "skipped": skipped}
        if samples:
            write_whole(file, data)
        write_whole(told_of(file), json.dumps(said, indent=1).encode())
        return said

    def members(self, index: int) -> list[tuple[str, bytes]]:
        """(suffix, bytes) of a sample's media and of what its list says beside them."""
        record = self.dataset.record(index)
        if not isinstance(record, Mapping):
            raise PromptError(f"expected an object with keys, found {type(record).__name__}")
        made, rest = [], dict(record)
        for kind, (_, keys) in MEDIA.items():
            named = [key for key in keys if rest.get(key) not in (None, "")]
            if named and kind not in PACKED:
                raise ConfigError(f"{self.dataset.name(index)}: {named[0]} is read where it lies, and not packed")
            items = [item for key in named for item in (rest[key] if isinstance(rest[key], list) else [rest[key]])]
            made += [(kind, item) for item in items]
            rest = {key: value for key, value in rest.items() if key not in named}
        if beside := [key for key in ("features", "actions") if key in rest]:
            raise ConfigError(f"{self.dataset.name(index)}: {beside[0]} are read where they lie, and not packed")
        members = []
        for place, (kind, item) in enumerate(made):
            suffix, data = self.medium(kind, self.dataset.open_media(item))
            members.append((f"{place}.{suffix}", data))
        return [*members, ("json", json.dumps(rest, ensure_ascii=False).encode())]

    def medium(self, kind: str, source: Any) -> tuple[str, bytes]:
        """Its suffix and bytes; of a picture that is too large those of a smaller one."""
        suffix = PLAIN[kind]
        if isinstance(source, Path):
            named = source.suffix.lower().removeprefix(".")
            suffix = named if KIND.get(named) == kind else suffix
        side = self.work.options.side
        if kind == "image":
            picture = Image(source).picture  # a damaged one is told here, not in training
            if side is not None and min(picture.size) > side:
                return "jpg", smaller(picture, side, self.work.options.quality)
        return suffix, source if isinstance(source, bytes) else read_bytes(source, LARGEST, MediaError)


def smaller(picture: Pillow.Image, side: int, quality: int) -> bytes:
    """A JPEG file of it, its shorter side of so many pixels."""
    scale = side / min(picture.size)
    width, height = (max(side, round(each * scale)) for each in picture.size)
    file = io.BytesIO()
    picture.convert("RGB").resize((width, height), Pillow.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    return file.getvalue()


def name_of(number: int) -> str:
    return f"data-{number:05d}.tar"


def told_of(file: Path) -> Path:
    """What is noted of a shard."""
    return file.with_suffix(".json")


def stands(file: Path) -> bool:
    """Whether a shard was written whole."""
    if not told_of(file).is_file():
        return False
    return file.is_file() or not read_json(told_of(file), error=ConfigError)["samples"]


def write_whole(file: Path, data: bytes) -> None:
    """All of it or nothing, whatever happens on the way."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_bytes(data)
    os.replace(part, file)
