"""Media that a client names by URL: fetched over https from hosts that the server's owner allowed, from no other.

    URL -> host on the list? -> its addresses, all of them public? -> a connection to one of these very addresses
        -> at most MAX_REDIRECTS further, each checked in the same way -> bytes within size and time

The name is looked up once and the connection goes to the address that was checked, so that a name that points elsewhere
a moment later (rebinding) gains nothing.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection
from urllib.parse import SplitResult, urljoin, urlsplit

from polymodal.serve.errors import Refused

MAX_REDIRECTS = 3
SECONDS = 30.0  # for all of it
CONNECT_SECONDS = 5.0
HOST = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")

Lookup = Callable[[str], Collection[str]]
Connect = Callable[[str, str], http.client.HTTPConnection]


def addresses_of(host: str) -> Collection[str]:
    """All addresses of a name."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)}
    except OSError:
        return ()


class _Pinned(http.client.HTTPSConnection):
    """A connection to one address, with the certificate of a name."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(host, 443, timeout=CONNECT_SECONDS, context=ssl.create_default_context())
        self._address = address

    def connect(self) -> None:
        line = socket.create_connection((self._address, 443), CONNECT_SECONDS)
        self.sock = ssl.create_default_context().wrap_socket(line, server_hostname=self.host)


def fetch(
    url: str, hosts: Collection[str], max_bytes: int, lookup: Lookup = addresses_of, connect: Connect = _Pinned
) -> bytes:
    """The bytes at `url`.  Raises Refused: a host that is not allowed, another scheme, too large, too slow, absent."""
    until = time.monotonic() + SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        parts = check(url, hosts)
        host = str(parts.hostname)
        connection = connect(host, public_address(host, lookup))
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"User-Agent": "polymodal", "Accept": "image/*, audio/*, video/*"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                url = urljoin(url, answer.headers.get("Location", ""))
                continue
            if answer.status != 200:
                raise Refused(400, f"{host} answers with status {answer.status}")
            return _read(answer, connection, max_bytes, until)
        except (OSError, http.client.HTTPException) as problem:
            raise Refused(400, f"{host} cannot be read ({type(problem).__name__})") from problem
        finally:
            connection.close()
    raise Refused(400, f"more than {MAX_REDIRECTS} redirects")


def check(url: str, hosts: Collection[str]) -> SplitResult:
    """The parts of a URL that may be fetched.  Raises Refused."""
    if len(url) > 4096 or not url.isascii() or any(character <= " " or character == "\\" for character in url):
        raise Refused(400, "a URL of media has up to 4096 ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise Refused(400, "the URL of the media cannot be read") from problem
    host = (parts.hostname or "").lower()
    if parts.scheme != "https" or port not in (None, 443) or parts.username is not None or parts.password is not None:
        raise Refused(400, "media may be fetched by https at its own port, without a user name")
    if not HOST.fullmatch(host) or host not in hosts:
        raise Refused(400, f"media may not be fetched from {host[:80]!r}; send the data itself (data: URL)")
    return parts


def public_address(host: str, lookup: Lookup) -> str:
    """One of a host's addresses, when all of them are public.  Raises Refused."""
    found = sorted(lookup(host))
    for address in found:
        number = ipaddress.ip_address(address.partition("%")[0])
        inner = getattr(number, "ipv4_mapped", None) or getattr(number, "sixtofour", None) or number
        if not number.is_global or not inner.is_global or number.is_multicast:
            raise Refused(400, f"{host} has an address that is not public")
    if not found:
        raise Refused(400, f"{host} has no address")
    return found[0]


def _read(
    answer: http.client.HTTPResponse, connection: http.client.HTTPConnection, max_bytes: int, until: float
) -> bytes:
    declared = answer.headers.get("Content-Length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        raise Refused(413, f"the media have {int(declared[:18]):,} bytes, the limit is {max_bytes:,}")
    data = bytearray()
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise Refused(400, f"the media took more than {SECONDS:g} s")
        if connection.sock is not None:
            connection.sock.settimeout(min(left, CONNECT_SECONDS))
        block = answer.read1(1 << 16)
        if not block:
            return bytes(data)
        data += block
        if len(data) > max_bytes:
            raise Refused(413, f"the media have more than {max_bytes:,} bytes, the limit")
