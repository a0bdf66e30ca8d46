"""How much a piece of media may cost before it is refused.

Every reader checks what the header claims before it decodes, and keeps counting while it decodes, because a
header can lie.  The defaults suit files of unknown origin; whoever trusts a file passes larger limits, or sets
POLYMODAL_LIMITS="seconds=36000,bytes=4e9" for the files of this machine (`pm.image`, `pm.audio`, `pm.media` and the
command line).  Media inside messages keep the defaults: they may come from anybody.
"""

import math
from dataclasses import dataclass, fields

from polymodal.environment import limits_from
from polymodal.errors import ConfigError, PromptError

VARIABLE = "POLYMODAL_LIMITS"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds for one item of media; all are positive.

    bytes          size of the file
    pixels         width x height of a picture in memory, or of one frame of a video; a larger picture is scaled down
    source_pixels  width x height that the file of a picture may have; half of it where the format can only be decoded
                   whole (all but HEIC and baseline JPEG)
    seconds        length of a recording or video
    samples        samples of a recording in memory at once; transcription takes it in windows and needs few
    frames         frames sampled from one video
    total_pixels   pixels of all sampled frames together (three bytes each in memory); larger frames are scaled down

    What decoding may cost, whatever is kept of it:
    scans            passes over the pixels of a JPEG; progressive ones have about ten
    decoded_samples  rate x channels x seconds of a recording; 16 a byte of its file are always allowed
    decoded_pixels   width x height of all frames of a video that must be decoded, also of those decoded only to reach
                     the ones that are used; a frame counts as 512 x 512 at least
    pieces           coded pieces that a file lists: packets of a video or recording, chunks of a PNG
    metadata         bytes of titles, colour profiles, thumbnails and cover art inside a picture or recording

    Of one request:
    characters  of all its texts together
    items       media of one conversation
    labels      of one `classify`
    """

    bytes: int = 256 * 1024 * 1024
    pixels: int = 50_000_000
    source_pixels: int = 200_000_000
    seconds: float = 4 * 3600.0
    samples: int = 64 * 1024 * 1024
    frames: int = 1024
    total_pixels: int = 512 * 1024 * 1024
    scans: int = 100
    decoded_samples: int = 1_300_000_000  # four hours of stereo at 44.1 kHz
    decoded_pixels: int = 200_000_000_000
    pieces: int = 2_000_000
    metadata: int = 32 * 1024 * 1024
    characters: int = 1_000_000
    items: int = 1_000
    labels: int = 25_000

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"Limits.{field.name} must be positive, found {getattr(self, field.name)}")


DEFAULT_LIMITS = Limits()


def own_limits() -> Limits:
    """The limits of files that this user names: the defaults, or what POLYMODAL_LIMITS says.  Raises ConfigError."""
    return limits_from(VARIABLE, DEFAULT_LIMITS)


def check_amount(name: str, found: int, what: str) -> None:
    """Raises PromptError when a request holds more than this user's limit; what: "labels", ... for the message."""
    most = getattr(own_limits(), name)
    if found > most:
        raise PromptError(
            f"{found:,} {what}, the limit is {most:,} (Limits.{name}; to raise it: {VARIABLE}={name}={found})"
        )


def how_to_raise(name: str, needed: float) -> str:
    """For the message of a refusal: which limit it was, and what lets a file of one's own pass."""
    return (
        f"Limits.{name}; for a file of your own: {VARIABLE}={name}={math.ceil(needed)}, or limits=pm.Limits({name}=...)"
    )
