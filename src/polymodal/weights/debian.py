"""A file of a Debian package: found through apt's own configuration, without installing anything.

flow:  `apt-get download --print-uris name=version` -> address, size, SHA-256 -> packages/<file>.deb
       without apt, or where it does not offer that version: POLYMODAL_DEBIAN_MIRROR + the path in the mirror's pool

A .deb is an `ar` archive whose member data.tar.xz holds the files, `./usr/share/...`.
Traps: a version may have an epoch ("1:0.18-2"), which file names have as %3a and the pool leaves out.  apt knows only
the releases that it is configured for, as of the last `apt-get update`.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights.cache import packages
from polymodal.weights.network import Network, NotServed, Progress, Remote, download
from polymodal.weights.source import Source

MIRROR = "POLYMODAL_DEBIAN_MIRROR"
_URI = re.compile(r"'([^']+)' \S+ ([0-9]{1,15}) SHA256:([0-9a-f]{64})")
_HEADER = 60  # bytes before each member of an `ar` archive


def obtain(source: Source, progress: Progress | None = None, pool: str = "") -> tuple[Path, bool]:
    """Bring a package: (path, True since it lies in our packages folder).  pool: its path below a mirror's address."""
    folder = packages() / "debian"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.name}_{source.revision.replace(':', '%3a')}.deb"
    if path.is_file():
        return path, True
    network = Network(proxy=_proxy())
    remote = _from_apt(source) or _from_mirror(source, pool)
    if remote is None:
        raise WeightsError(
            f"{source.name}={source.revision}: apt does not offer this package (`apt-get update` reads its lists "
            f"again); set {MIRROR} to the address of a Debian mirror that does"
        )
    try:
        download(remote, path, network, progress)
    except NotServed as error:
        raise WeightsError(f"{source.name}={source.revision}: the mirror has no such package ({error})") from error
    except Unreachable as error:
        raise Unreachable(f"{source.name}={source.revision}: cannot be fetched: {error}; check the network") from error
    return path, True


def _from_apt(source: Source) -> Remote | None:
    said = _ask("apt-get", "download", "--print-uris", f"{source.name}={source.revision}")
    found = _URI.search(said)
    if found is None or not found[1].startswith(("http://", "https://")):
        return None
    return Remote(url=found[1], label=source.name, hashes={"sha256": found[3]}, size=int(found[2]))


def _from_mirror(source: Source, pool: str) -> Remote | None:
    base = os.environ.get(MIRROR, "").rstrip("/")
    if not base or not pool:
        return None
    return Remote(url=f"{base}/{urllib.parse.quote(pool)}", label=source.name, ceiling="package_bytes")


def _proxy() -> str:
    found = re.search(r'"(.+)"', _ask("apt-config", "dump", "Acquire::http::Proxy"))
    return found[1] if found else ""


def _ask(command: str, *arguments: str) -> str:
    """What a tool of apt prints; nothing where it is not there or fails."""
    tool = shutil.which(command)
    if tool is None:
        return ""
    try:
        answer = subprocess.run([tool, *arguments], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def debian_files(archive: Path) -> Any:
    """The tar archive of a package's files, unpacked as it is read.  Raises ValueError for what is no such package."""
    file = archive.open("rb")
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it is no Debian package")
    while len(header := file.read(_HEADER)) == _HEADER:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if header[58:] != b"`\n" or not re.fullmatch(rb"[0-9]{1,10}", size):
            raise ValueError("a header of it is damaged")
        if name.startswith("data.tar"):
            return _unpacked(name, io.BufferedReader(_Part(file, int(size))))
        file.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise ValueError("it holds no data.tar")


def _unpacked(name: str, part: io.BufferedReader) -> Any:
    if name == "data.tar.xz":
        return lzma.LZMAFile(part)
    if name == "data.tar.gz":
        return gzip.GzipFile(fileobj=part)
    if name == "data.tar":
        return part
    raise ValueError(f"{name} is packed in a way that is not read here; expected xz or gz")


class _Part(io.RawIOBase):
    """So many bytes of a file, from where it stands."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.file.read(min(len(buffer), self.left))
        buffer[: len(block)] = block
        self.left -= len(block)
        return len(block)

    def close(self) -> None:
        self.file.close()
        super().close()
