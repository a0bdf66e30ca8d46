"""HTTP for downloads: pages, and files that are resumed, retried and verified.

flow:  Remote (address, hash, size) -> .part file, continued with a Range request -> hash -> rename

The network settings (certificates, proxy, timeout) come from the package manager whose index led here,
because a user behind a mirror has configured them once, for pip or npm.  Only the standard library is used.

Traps: a server may ignore Range and answer 200 with the whole file; then the part is begun anew.  The part is
only continued while the server's ETag is the one it began with.  A body may have no end: it is read up to the size that
is known, or to a limit.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import urllib.error
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights.cache import digests, require_space, storage_error
from polymodal.weights.connection import Clock, Network, Refused, origin, request
from polymodal.weights.network_limits import how_to_change
from polymodal.weights.source import megabytes

__all__ = ["Network", "NotServed", "Progress", "Refused", "Remote", "ask", "download", "get", "write_block"]

Progress = Callable[[str, int, int | None], None]

_BLOCK = 1 << 18
_PROGRESS = 1 << 14  # bytes that a try must bring, else it counts as one without progress


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server; `hashes` as {algorithm: hexadecimal digits}, `label` names it to the user.

    ceiling: the limit (a field of NetworkLimits) on its bytes where `size` is not known.
    """

    url: str
    label: str
    hashes: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    ceiling: str = "file_bytes"


class NotServed(WeightsError):
    """The server answered, but not with the file; `status` is the HTTP status, `code` a hub's own word for it."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def get(url: str, network: Network, accept: str, label: str) -> tuple[bytes, str, str]:
    """Read a small page: (body, content type, address after redirects)."""
    with ask(url, network, {"Accept": accept}, label) as response:
        limit, body = network.limits.page_bytes, bytearray()
        try:
            while len(body) <= limit and (block := _read(response, _BLOCK)):
                body += block
        except Refused as error:
            raise Refused(f"{label}: {_shown(url)}: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{label}: the answer of {_shown(url)} broke off ({_why(error)})") from error
        if len(body) > limit:
            raise Refused(
                f"{label}: {_shown(url)} answers with a page of more than {limit:,} bytes "
                f"({how_to_change('page_bytes', limit * 4)})"
            )
        length = _number(response, "Content-Length", r"([0-9]{1,15})")
        if length is not None and len(body) < length:
            raise Unreachable(f"{label}: the answer of {_shown(url)} broke off ({len(body)} of {length} bytes)")
        return bytes(body), response.headers.get("Content-Type") or "", response.url


def ask(url: str, network: Network, headers: dict[str, str], label: str, method: str = "GET") -> Any:
    """The response to a request, tried again where that may help.  Raises NotServed, Unreachable and Refused."""
    failure, clock, asked = "no answer", Clock(network.limits), None
    for attempt in range(network.tries):
        try:
            if attempt:
                clock.wait(asked, network.pause * 2 ** (attempt - 1))
            return request(url, network, headers, method, clock)
        except Refused as error:
            raise Refused(f"{label}: {_shown(url)}: {error}") from error
        except urllib.error.HTTPError as error:
            error.close()
            if not _transient(error.code):
                code = _word(error.headers.get("X-Error-Code"))
                raise NotServed(f"{label}: {_shown(url)} answered {error.code}", error.code, code) from error
            failure, asked = f"status {error.code}", error.headers.get("Retry-After")
        except (OSError, http.client.HTTPException) as error:
            failure, asked = _why(error), None
            if _hopeless(error):
                break
    raise Unreachable(f"{label}: no answer from {_shown(url)} ({failure})")


def download(remote: Remote, path: Path, network: Network, progress: Progress | None = None) -> None:
    """Bring a file to `path`: continue `<path>.part` where there is one, verify, rename.

    Raises WeightsError; after an interruption or a full disk the partial file is kept and the message says
    so, a file that is not the promised one is removed.
    """
    part = path.with_name(path.name + ".part")
    resumed = _length(part) > 0
    wrong = _transfer(remote, part, network, progress) or _mismatch(remote, part)
    if wrong and resumed:
        # The kept part may come from another file under the same name; one clean start decides.
        _forget(part)
        wrong = _transfer(remote, part, network, progress) or _mismatch(remote, part)
    if wrong:
        _forget(part)
        raise WeightsError(
            f"{remote.label}: {wrong}; the file was removed, try again, and if it stays so do not trust this source"
        )
    try:
        os.replace(part, path)
    except OSError as error:
        raise storage_error(path, error) from error
    _tag(part).unlink(missing_ok=True)


def _transfer(remote: Remote, part: Path, network: Network, progress: Progress | None) -> str:
    """Fill the part file, or say why the server's file is another one; tries count while next to nothing arrives."""
    require_space(part, None if remote.size is None else remote.size - _length(part))
    attempt, failure, clock, asked = 0, "no answer", Clock(network.limits), None
    while attempt < network.tries:
        before = _length(part)
        try:
            if attempt:
                clock.wait(asked, network.pause * 2 ** (attempt - 1))
            asked = None
            done, wrong = _receive(remote, part, network, clock, progress)
            if done or wrong:
                return wrong
            failure = "the connection was closed early"
        except Refused as error:
            kept = "; the partial file is kept" if _length(part) else ""
            raise Refused(f"{remote.label}: {_shown(remote.url)}: {error}{kept}") from error
        except urllib.error.HTTPError as error:
            error.close()
            if not _transient(error.code):
                code = _word(error.headers.get("X-Error-Code"))
                raise NotServed(f"{remote.label}: the server answered {error.code}", error.code, code) from error
            failure, asked = f"status {error.code}", error.headers.get("Retry-After")
        except (OSError, http.client.HTTPException) as error:
            failure = _why(error)
            if _hopeless(error) and not before:
                break
        attempt = 1 if _length(part) - before >= _PROGRESS else attempt + 1
    have = _length(part)
    if not have:
        raise Unreachable(f"{remote.label}: no answer from {_shown(remote.url)} ({failure})")
    raise WeightsError(
        f"{remote.label}: stopped at {megabytes(have)} of {megabytes(remote.size)} ({failure}); "
        "the partial file is kept, run the same command again to continue"
    )


def _receive(remote: Remote, part: Path, network: Network, clock: Clock, progress: Progress | None) -> tuple[bool, str]:
    """One request: (whether the part is complete afterwards, why the server's file is not the promised one)."""
    have = _length(part)
    if remote.size is not None and have == remote.size:
        return True, ""
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag := _kept_tag(part):
            headers["If-Range"] = tag
    try:
        response = request(remote.url, network, headers, clock=clock)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            # The part is as long as the file, or longer: it is whole, or it is begun anew.
            if (error.headers.get("Content-Range") or "").rpartition("/")[2] == str(have):
                return True, ""
            _forget(part)
            return False, ""
        raise
    with response:
        continued = response.status == 206 and _number(response, "Content-Range", r"bytes ([0-9]{1,15})-.*") == have
        if response.status == 206 and not continued:
            _forget(part)
            return False, ""
        begin = have if continued else 0
        length = _number(response, "Content-Length", r"([0-9]{1,15})")
        total = begin + length if length is not None else remote.size
        if remote.size is not None and total != remote.size:
            return False, f"expected {remote.size} bytes, found {total}"
        limit = _ceiling(remote, network, total)
        require_space(part, None if total is None else total - begin)
        with _open_part(part, "ab" if continued else "wb") as file:
            if not continued:
                _keep_tag(part, response)
            done = _pour(response, file, part, (begin, total, limit), (remote.label, progress))
    if done > limit:
        _forget(part)
        raise Refused(_too_large(remote, limit))
    return total is None or done >= total, ""


def _ceiling(remote: Remote, network: Network, total: int | None) -> int:
    """How many bytes are taken at most; raises Refused when the server announces more."""
    limit: int = remote.size if remote.size is not None else getattr(network.limits, remote.ceiling)
    if total is not None and total > limit:
        raise Refused(_too_large(remote, limit))
    return limit


def _too_large(remote: Remote, limit: int) -> str:
    if remote.size is not None:
        return f"the body has no end after the expected {limit:,} bytes"
    return f"the file has more than {limit:,} bytes ({how_to_change(remote.ceiling, limit * 4)})"


def _pour(
    response: Any,
    file: IO[bytes],
    part: Path,
    sizes: tuple[int, int | None, int],
    report: tuple[str, Progress | None],
) -> int:
    """Copy the body into the part file and report progress; sizes: bytes there already, of the whole, at most."""
    done, total, limit = sizes
    label, progress = report
    end = limit + 1 if total is None else total
    while done < end and (block := _read(response, min(_BLOCK, end - done))):
        try:
            write_block(file, block)
        except OSError as error:
            kept = f" at {megabytes(done)} of {megabytes(total)} of {label}, the partial file is kept"
            raise storage_error(part, error, kept) from error
        done += len(block)
        if progress is not None:
            progress(label, done, total)
    return done


def _read(response: Any, size: int) -> bytes:
    """What has arrived of the body, `size` bytes at most."""
    try:
        block: bytes = response.read1(size)
    except ValueError as error:  # of chunks whose lengths are no numbers
        raise http.client.HTTPException("the body is damaged") from error
    return block


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
    size = _length(path)
    if remote.size is not None and size != remote.size:
        return f"expected {remote.size} bytes, found {size}"
    for algorithm, expected in remote.hashes.items():
        found = digests(path, algorithm)
        if expected not in found:
            return f"expected {algorithm} {expected[:16]}..., found {found[0][:16]}..."
    return ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _keep_tag(part: Path, response: Any) -> None:
    tag = response.headers.get("ETag") or ""
    if re.fullmatch(r'"[!#-~]{1,200}"', tag):
        _tag(part).write_text(tag, encoding="ascii")
    else:
        _tag(part).unlink(missing_ok=True)


def _kept_tag(part: Path) -> str:
    try:
        return _tag(part).read_text(encoding="ascii")
    except (OSError, UnicodeError):
        return ""


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _number(response: Any, header: str, pattern: str) -> int | None:
    """The number that a header gives, None when it gives none."""
    found = re.fullmatch(pattern, (response.headers.get(header) or "").strip())
    return int(found[1]) if found else None


def _word(text: str | None) -> str:
    """A server's word for an error, '' where it is none."""
    return text if text and re.fullmatch(r"[0-9A-Za-z._-]{1,40}", text) else ""


def _transient(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def _hopeless(error: BaseException) -> bool:
    """Name unknown, connection or certificate refused: a second try cannot help."""
    reason = getattr(error, "reason", error)
    return isinstance(reason, ssl.SSLCertVerificationError | socket.gaierror | ConnectionRefusedError)


def _why(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = str(reason).strip()
    said = text.splitlines()[0][:200] if text else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in said)


def _shown(url: str) -> str:
    """The server of an address, without user and password."""
    return origin(url).host
