"""How a server is run: where it listens, who may use it, and what one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from polymodal.data.limits import Limits
from polymodal.engine.request import EngineLimits
from polymodal.errors import ConfigError

# Media come from anybody: tighter than for files of one's own (data/limits.py).
MEDIA_LIMITS = Limits(
    bytes=32 * 2**20,
    pixels=16_000_000,
    source_pixels=64_000_000,
    seconds=600.0,
    frames=128,
    total_pixels=2**27,
    decoded_samples=200_000_000,
    decoded_pixels=40_000_000_000,
)


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What one request may ask for; more is refused with status 400 or 413.

    body          bytes of a request
    text          characters of all texts together
    media         pictures, recordings and videos together
    n             answers to one conversation
    max_tokens    tokens of one answer; also what a request gets that names no number, where the context allows it
    inputs        texts or media of one request for embeddings
    speech        characters of a text that is spoken
    seconds       from its arrival to its last token
    body_seconds  for its body to come in, and for each piece of an answer to be taken
    """

    body: int = 64 * 2**20
    text: int = 400_000
    media: int = 16
    n: int = 8
    max_tokens: int = 4096
    inputs: int = 256
    speech: int = 4096
    seconds: float = 600.0
    body_seconds: float = 120.0

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise ConfigError(f"RequestLimits.{each.name}: expected more than 0, found {getattr(self, each.name)}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """api_keys: SHA-256 in hexadecimal of each key that is let in; none: anybody who reaches the port.

    hosts: names that the server answers to, none for all; on the loopback interface those of this machine, since a
    page may point a name of its own at it.  origins: of pages of other servers that may use this one (CORS); none by
    default.  media_hosts: names of hosts from which pictures,
    sound and videos may be fetched over https; none by default.  drain: seconds that requests have to end after
    SIGTERM.  connections: open at once.  head_seconds: for the line and headers of a request.  bodies: bytes of all
    requests together that are being answered.  compile: decoding steps as compiled graphs (engine/compiled.py).
    """

    api_keys: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    origins: tuple[str, ...] = ()
    media_hosts: frozenset[str] = frozenset()
    drain: float = 30.0
    connections: int = 768
    head_seconds: float = 20.0
    bodies: int = 2**30
    compile: bool = False
    requests: RequestLimits = field(default_factory=RequestLimits)
    media: Limits = MEDIA_LIMITS
    engine: EngineLimits = field(default_factory=EngineLimits)
