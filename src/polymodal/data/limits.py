"""How much a piece of media may cost before it is refused.

Every reader checks what the header claims before it decodes, and keeps counting while it decodes, because a
header can lie.  The defaults suit files of unknown origin; a caller who trusts a file passes larger limits.
"""

from dataclasses import dataclass, fields

from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds for one item of media; all are positive.

    bytes         size of the file
    pixels        width x height of a picture, or of one frame of a video
    seconds       length of a recording or video
    frames        frames sampled from one video
    total_pixels  pixels of all sampled frames together (three bytes each in memory)
    """

    bytes: int = 256 * 1024 * 1024
    pixels: int = 50_000_000
    seconds: float = 3600.0
    frames: int = 1024
    total_pixels: int = 512 * 1024 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"Limits.{field.name} must be positive, found {getattr(self, field.name)}")


DEFAULT_LIMITS = Limits()
