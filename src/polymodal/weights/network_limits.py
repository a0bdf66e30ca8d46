"""What a server may cost before it is given up.

The defaults suit any hub, mirror or registry; for one's own, POLYMODAL_NETWORK_LIMITS="rate=10,page_bytes=1e9" raises
them for all that is fetched from this machine, and `Network(limits=NetworkLimits(...))` for one call in Python.
"""

import math
from dataclasses import dataclass, fields

from polymodal.environment import limits_from
from polymodal.errors import ConfigError

VARIABLE = "POLYMODAL_NETWORK_LIMITS"


@dataclass(frozen=True, kw_only=True)
class NetworkLimits:
    """Upper bounds for one answer of a server, `rate` a lower one; all are positive.

    page_bytes     an index, a registry's document, a hub's listing
    text_bytes     a config, tokenizer or other file of a hub's repository that is not weights
    file_bytes     a file of weights whose size no record tells
    package_bytes  a wheel, sdist or tarball
    member_bytes   a file in a package whose size no record tells
    members        files in a package, and in a hub's repository
    unpacked_bytes bytes of a tarball that are unpacked on the way to the file that is wanted
    rate           bytes a second that a server sends at least, on average over `rate_seconds`
    rate_seconds   how long a server may be slower than `rate`, the wait for its first byte included
    retry_after    seconds that a server may ask to wait, all tries for one file together
    redirects      addresses that one request may be sent on to
    """

    page_bytes: int = 64 * 1024 * 1024
    text_bytes: int = 1_000_000_000
    file_bytes: int = 200_000_000_000
    package_bytes: int = 20_000_000_000
    member_bytes: int = 20_000_000_000
    members: int = 100_000
    unpacked_bytes: int = 100_000_000_000
    rate: float = 1000.0
    rate_seconds: float = 60.0
    retry_after: float = 120.0
    redirects: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"NetworkLimits.{field.name} must be positive, found {getattr(self, field.name)}")


def network_limits() -> NetworkLimits:
    """The limits of this machine: the defaults, or what POLYMODAL_NETWORK_LIMITS says.  Raises ConfigError."""
    return limits_from(VARIABLE, NetworkLimits())


def how_to_change(name: str, needed: float) -> str:
    """For the message of a refusal: which limit it was, and how a server of one's own is let through."""
    return f"NetworkLimits.{name}; for a server that you trust: {VARIABLE}={name}={math.ceil(needed)}"
