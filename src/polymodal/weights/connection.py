"""One request over http or https: its redirects, whom its password or token reaches, and a minimum rate.

flow:  address -> scheme http(s)? -> connection with a clock -> 3xx? the next address, checked again -> response

Traps: urllib's usual opener also reads file:, ftp: and data: addresses and copies headers to wherever a redirect leads;
here the opener is put together without the former, and redirects are followed by hand, so that a secret is given to the
origin (scheme, host and port) that it is for and to no other.  A bearer token is not sent over plain http, except
to this machine itself.  The time limit of a socket is for one wait only: a server that sends a byte now and then,
even in its headers, would hold a client for ever, hence the clock.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import http.client
import io
import ipaddress
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polymodal.errors import WeightsError
from polymodal.weights.network_limits import NetworkLimits, how_to_change, network_limits

HEADER_BYTES = 1 << 20
"""All that an answer may hold beside its body: interim answers, headers, lengths of chunks, trailers."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """How to reach servers: certificate file, proxy address, seconds to wait, tries without progress and the
    pause after the first (it doubles), a bearer token and the address whose origin may see it."""

    cert: str = ""
    proxy: str = ""
    timeout: float = 30.0
    tries: int = 4
    pause: float = 0.5
    trusted_hosts: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    token_for: str = ""
    limits: NetworkLimits = field(default_factory=network_limits)


class Refused(WeightsError):
    """What a server does or asks is against a limit or not safe; asking again would not help."""


class Origin(NamedTuple):
    """To whom an address leads."""

    scheme: str
    host: str
    port: int


def origin(url: str) -> Origin:
    """Raises Refused for an address that is not http or https, or has no host."""
    try:
        parts = urllib.parse.urlsplit(url)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in ("http", "https") or not host or any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise Refused(f"{_printable(url)!r} is no address of a server, expected http://... or https://...")
    return Origin(scheme, host, port if port is not None else {"http": 80, "https": 443}[scheme])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def request(
    url: str,
    network: Network,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    clock: Clock | None = None,
) -> Any:
    """Open an http or https address; the caller closes the response.

    clock: of several requests for one thing, else the request has its own.  The response's `redirects` lists the
    headers of the answers that led to it.  Raises Refused, urllib's HTTPError for an answer of 400 and above, OSError
    and http.client.HTTPException for connections that fail.
    """
    first, clock = origin(url), clock or Clock(network.limits)
    basic, passed = _basic(url), []
    for _ in range(network.limits.redirects + 1):
        here = origin(url)
        sent = {"User-Agent": "polymodal", **(headers or {})}
        if basic and here == first:
            sent["Authorization"] = basic
        elif network.token and here == origin(network.token_for) and (here.scheme == "https" or is_loopback(here.host)):
            sent["Authorization"] = f"Bearer {network.token}"
        try:
            call = urllib.request.Request(_without_user(url), headers=sent, method=method)
            response = _opener(here, network, clock).open(call, timeout=network.timeout)
        except urllib.error.HTTPError as answer:
            if answer.code not in (301, 302, 303, 307, 308) or not answer.headers.get("Location"):
                raise
            url = _next(url, answer.headers["Location"])
            if method == "HEAD" and origin(url) != here and answer.headers.get("X-Repo-Commit"):
                # A hub tells all about a file before it sends on to the store that has its bytes.
                response = answer
            else:
                answer.close()
                passed.append(answer.headers)
                continue
        except ValueError as error:  # http.client's refusal of odd addresses and header values, UnicodeError
            raise Refused(f"{first.host}: the address cannot be asked for") from error
        response.redirects = passed
        return response
    raise Refused(
        f"{first.host} redirects more than {network.limits.redirects} times "
        f"({how_to_change('redirects', network.limits.redirects * 2)})"
    )


def _next(url: str, location: str) -> str:
    """The address that a redirect names; a user and password in it are not taken over."""
    try:
        # Servers send letters of any script unquoted; http wants them quoted.
        target = urllib.parse.urljoin(url, urllib.parse.quote(location.encode("latin-1"), safe="%/:=&?~#+!$,;'@()*[]"))
        return _without_user(target)
    except ValueError:
        raise Refused(f"{origin(url).host} redirects to {_printable(location)!r}, which is no address") from None


def _basic(url: str) -> str:
    """The header for a user and password written in an address, or ''."""
    parts = urllib.parse.urlsplit(url)
    if not parts.username:
        return ""
    user = urllib.parse.unquote(parts.username) + ":" + urllib.parse.unquote(parts.password or "")
    return "Basic " + base64.b64encode(user.encode()).decode()


def _without_user(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _printable(text: str) -> str:
    """A server's words, short and on one line."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


class Clock:
    """Gives a server up that sends less than `rate` bytes a second over `rate_seconds`; may span several requests."""

    def __init__(self, limits: NetworkLimits, now: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.now = limits, now
        self.start, self.bytes, self.waited = now(), 0, 0.0

    def wait(self, asked: str | None, pause: float) -> None:
        """Sleep before the next try: as long as the server's Retry-After asks, else for `pause` seconds.

        Raises Refused when all that it asked for together is more than the limit.
        """
        wanted = retry_after(asked)
        if wanted is None:
            time.sleep(pause)
            return
        if self.waited + wanted > self.limits.retry_after:
            needed = how_to_change("retry_after", self.waited + wanted)
            raise Refused(f"the server asks to come back in {wanted:,.0f} s ({needed}); try again later")
        self.waited += wanted
        time.sleep(wanted)
        self.start += wanted

    def count(self, size: int) -> None:
        """size: bytes that arrived just now.  Raises Refused."""
        self.bytes += size
        passed = self.now() - self.start
        if passed < self.limits.rate_seconds:
            return
        rate = self.bytes / passed
        if rate < self.limits.rate:
            raise Refused(
                f"the server sent {rate:.0f} bytes a second for {passed:.0f} s, at least {self.limits.rate:g} are "
                f"expected ({how_to_change('rate', 1)})"
            )
        self.start, self.bytes = self.now(), 0


def retry_after(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks to wait, given as a number or a date; None where it says nothing."""
    text = (header or "").strip()
    if re.fullmatch(r"[0-9]{1,12}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class _Counted(io.RawIOBase):
    """The bytes of a socket as they arrive, counted; `room`: how many may come before the next step of the answer."""

    def __init__(self, raw: Any, clock: Clock) -> None:
        self.raw, self.clock, self.room = raw, clock, HEADER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        size: int = self.raw.readinto(buffer) or 0
        self.clock.count(size)
        self.room -= size
        if self.room < 0:
            raise Refused(f"the server sends headers without end, more than {HEADER_BYTES:,} bytes")
        return size

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose headers, body and trailers are read by the clock and have an end."""

    def __init__(self, clock: Clock, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.counted = _Counted(self.fp.detach(), clock)  # type: ignore[attr-defined]
        self.fp = io.BufferedReader(self.counted)

    def read1(self, n: int = -1) -> bytes:
        self.counted.room = max(n, 0) + HEADER_BYTES
        return super().read1(n)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_counting(http.client.HTTPConnection, self.clock), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, clock: Clock, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self.clock, self.context = clock, context

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_counting(http.client.HTTPSConnection, self.clock), req, context=self.context)


def _counting(base: type[http.client.HTTPConnection], clock: Clock) -> Any:
    return type(base.__name__, (base,), {"response_class": staticmethod(functools.partial(_Response, clock))})


def _opener(server: Origin, network: Network, clock: Clock) -> urllib.request.OpenerDirector:
    """http and https only, and no redirects."""
    proxies = {"http": network.proxy, "https": network.proxy} if network.proxy else None
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler(proxies))
    opener.add_handler(_Http(clock))
    opener.add_handler(_Https(clock, context(network.cert, server.host in network.trusted_hosts)))
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    opener.add_handler(urllib.request.UnknownHandler())
    return opener


@functools.lru_cache(maxsize=8)
def context(cert: str, trusted: bool) -> ssl.SSLContext:
    """Certificates to check servers with; reading them takes a while, so they are kept."""
    if trusted:
        # What the user has written under pip's `trusted-host`.
        return ssl._create_unverified_context()
    try:
        found = ssl.create_default_context(cafile=cert or None)
    except OSError as error:
        raise WeightsError(f"{cert}: the configured certificate file cannot be read: {error}") from error
    if not cert and not found.cert_store_stats()["x509_ca"]:
        # Some builds of Python come without certificates; certifi does when huggingface_hub is installed.
        import certifi

        found.load_verify_locations(certifi.where())
    return found
