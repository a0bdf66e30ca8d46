"""HTTP for downloads: one request function and one downloader that resumes, retries and verifies.

flow:  Remote (address, hash, size) -> .part file, continued with a Range request -> hash -> rename

The network settings (certificates, proxy, timeout) come from the package manager whose index led here,
because a user behind a mirror has configured them once, for pip or npm.  Only the standard library is used.

Traps: a server may ignore Range and answer 200 with the whole file; then the part is begun anew.  The part is
only continued while the server's ETag is the one it began with.  A password in an address is sent as a header
to that host only and never shown in a message.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights.cache import require_space, storage_error
from polymodal.weights.source import megabytes

Progress = Callable[[str, int, int | None], None]

_BLOCK = 1 << 18
_PAGE_LIMIT = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Network:
    """How to reach servers: certificate file, proxy address, seconds to wait, tries without progress and the
    pause after the first (it doubles)."""

    cert: str = ""
    proxy: str = ""
    timeout: float = 30.0
    tries: int = 4
    pause: float = 0.5
    trusted_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server; `hashes` as {algorithm: hexadecimal digits}, `label` names it to the user."""

    url: str
    label: str
    hashes: dict[str, str] = field(default_factory=dict)
    size: int | None = None


class NotServed(WeightsError):
    """The server answered, but not with the file; `status` is the HTTP status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def request(url: str, network: Network, headers: dict[str, str] | None = None) -> Any:
    """Open an http, https or file address; the caller closes the response."""
    parts = urllib.parse.urlsplit(url)
    call = urllib.request.Request(_without_user(url), headers={"User-Agent": "polymodal", **(headers or {})})
    if parts.username:
        user = urllib.parse.unquote(parts.username) + ":" + urllib.parse.unquote(parts.password or "")
        token = base64.b64encode(user.encode()).decode()
        call.add_unredirected_header("Authorization", f"Basic {token}")
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPSHandler(context=_context(network.cert, parts.hostname in network.trusted_hosts))
    ]
    if network.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": network.proxy, "https": network.proxy}))
    return urllib.request.build_opener(*handlers).open(call, timeout=network.timeout)


def get(url: str, network: Network, accept: str, label: str) -> tuple[bytes, str, str]:
    """Read a small page: (body, content type, address after redirects)."""
    failure = "no answer"
    for attempt in range(network.tries):
        if attempt:
            time.sleep(network.pause * 2 ** (attempt - 1))
        try:
            with request(url, network, {"Accept": accept}) as response:
                body = response.read(_PAGE_LIMIT)
                return body, response.headers.get("Content-Type") or "", response.url
        except urllib.error.HTTPError as error:
            if not _transient(error.code):
                raise NotServed(f"{label}: {_shown(url)} answered {error.code}", error.code) from error
            failure = f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            failure = _why(error)
            if _hopeless(error):
                break
    raise Unreachable(f"{label}: no answer from {_shown(url)} ({failure})")


def download(remote: Remote, path: Path, network: Network, progress: Progress | None = None) -> None:
    """Bring a file to `path`: continue `<path>.part` where there is one, verify, rename.

    Raises WeightsError; after an interruption or a full disk the partial file is kept and the message says
    so.
    """
    part = path.with_name(path.name + ".part")
    resumed = part.exists() and part.stat().st_size > 0
    _transfer(remote, part, network, progress)
    wrong = _mismatch(remote, part)
    if wrong and resumed:
        # The kept part may come from another file under the same name; one clean start decides.
        part.unlink()
        _transfer(remote, part, network, progress)
        wrong = _mismatch(remote, part)
    if wrong:
        os.replace(part, path.with_name(path.name + ".bad"))
        raise WeightsError(
            f"{remote.label}: {wrong}; the file was put aside as {path.name}.bad, "
            "try again, and if it stays so do not trust this source"
        )
    os.replace(part, path)
    _tag(part).unlink(missing_ok=True)


def _transfer(remote: Remote, part: Path, network: Network, progress: Progress | None) -> None:
    """Fill the part file; tries count only while nothing arrives."""
    require_space(part, None if remote.size is None else remote.size - _length(part))
    attempt, failure = 0, "no answer"
    while attempt < network.tries:
        if attempt:
            time.sleep(network.pause * 2 ** (attempt - 1))
        before = _length(part)
        try:
            if _receive(remote, part, network, progress):
                return
            failure = "the connection was closed early"
        except urllib.error.HTTPError as error:
            if not _transient(error.code):
                raise NotServed(f"{remote.label}: the server answered {error.code}", error.code) from error
            failure = f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            failure = _why(error)
            if _hopeless(error) and not before:
                break
        attempt = 1 if _length(part) > before else attempt + 1
    have = _length(part)
    if not have:
        raise Unreachable(f"{remote.label}: no answer from {_shown(remote.url)} ({failure})")
    raise WeightsError(
        f"{remote.label}: stopped at {megabytes(have)} of {megabytes(remote.size)} ({failure}); "
        "the partial file is kept, run the same command again to continue"
    )


def _receive(remote: Remote, part: Path, network: Network, progress: Progress | None) -> bool:
    """One request; True when the part is complete afterwards."""
    have = _length(part)
    if remote.size is not None and have == remote.size:
        return True
    headers = {"Accept-Encoding": "identity"}
    tag = _tag(part).read_text(encoding="utf-8") if _tag(part).exists() else ""
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    try:
        response = request(remote.url, network, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            # The part is as long as the file, or longer: it is whole, or it is begun anew.
            if (error.headers.get("Content-Range") or "").rpartition("/")[2] == str(have):
                return True
            part.unlink()
            return False
        raise
    with response:
        continued = response.status == 206 and _range_start(response) == have
        begin = have if continued else 0
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length and length.isdigit() else remote.size
        with _open_part(part, "ab" if continued else "wb") as file:
            if not continued:
                _keep_tag(part, response)
            done = _pour(response, file, part, begin, total, (remote.label, progress))
    return total is None or done >= total


def _pour(
    response: Any,
    file: IO[bytes],
    part: Path,
    done: int,
    total: int | None,
    report: tuple[str, Progress | None],
) -> int:
    """Copy the body into the part file and report progress."""
    label, progress = report
    while block := response.read(_BLOCK):
        try:
            write_block(file, block)
        except OSError as error:
            kept = f" at {megabytes(done)} of {megabytes(total)} of {label}, the partial file is kept"
            raise storage_error(part, error, kept) from error
        done += len(block)
        if progress is not None:
            progress(label, done, total)
    return done


def write_block(file: IO[bytes], block: bytes) -> None:
    """Write and hand over to the system, so that a full disk shows here."""
    file.write(block)
    file.flush()


def _open_part(part: Path, mode: str) -> IO[bytes]:
    try:
        return part.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise storage_error(part, error) from error


def _mismatch(remote: Remote, path: Path) -> str:
    """What is wrong with a finished file, or ''."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"expected {remote.size} bytes, found {size}"
    for algorithm, expected in remote.hashes.items():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected:
            return f"expected {algorithm} {expected[:16]}..., found {found[:16]}..."
    return ""


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _keep_tag(part: Path, response: Any) -> None:
    tag = response.headers.get("ETag") or ""
    if tag and not tag.startswith("W/"):
        _tag(part).write_text(tag, encoding="utf-8")
    else:
        _tag(part).unlink(missing_ok=True)


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _range_start(response: Any) -> int:
    """The first byte of a 206 answer, -1 when the answer does not say."""
    text = response.headers.get("Content-Range") or ""
    first = text.removeprefix("bytes ").partition("-")[0].strip()
    return int(first) if first.isdigit() else -1


def _transient(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def _hopeless(error: BaseException) -> bool:
    """Name unknown, connection or certificate refused: a second try cannot help."""
    reason = getattr(error, "reason", error)
    return isinstance(reason, ssl.SSLCertVerificationError | socket.gaierror | ConnectionRefusedError)


def _why(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = str(reason).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _shown(url: str) -> str:
    """The server of an address, without user and password."""
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or parts.path


def _without_user(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@functools.lru_cache(maxsize=8)
def _context(cert: str, trusted: bool) -> ssl.SSLContext:
    """Certificates to check servers with; reading them takes a while, so they are kept."""
    if trusted:
        # What the user has written under pip's `trusted-host`.
        return ssl._create_unverified_context()
    try:
        context = ssl.create_default_context(cafile=cert or None)
    except OSError as error:
        raise WeightsError(f"{cert}: the configured certificate file cannot be read: {error}") from error
    if not cert and not context.cert_store_stats()["x509_ca"]:
        # Some builds of Python come without certificates; certifi does when huggingface_hub is installed.
        import certifi

        context.load_verify_locations(certifi.where())
    return context
