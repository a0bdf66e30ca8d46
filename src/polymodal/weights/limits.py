"""How much a weights file may ask for before it is refused: one place for the bounds of all its readers.

A header is small beside the tensors it describes, and what it describes is in the file.  The defaults are several times
what the largest published checkpoints need; POLYMODAL_WEIGHTS_LIMITS="values=2e7,bytes=4e10" raises them for files of
one's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from polymodal.environment import limits_from

VARIABLE = "POLYMODAL_WEIGHTS_LIMITS"


@dataclass(frozen=True, kw_only=True)
class WeightsLimits:
    """Upper bounds for one file; all are positive.

    header     bytes of a header: of safetensors, of GGUF, of a pickle, of the table of members of an archive
    values     instructions of a pickle, values that it stands for once everything shared is written out, entries of the
               lists of a GGUF header, commas of a JSON header
    keys       keys of the tables of a pickle that are no text: their places in a table can be chosen to collide
    tensors    tensors of a file or index, members of an archive
    repeated   bytes of the tensors that repeat the values of a smaller storage, in all
    bytes      bytes of all tensors of a file together, where that is more than 16 times the size of the file: packed
               archives, tensors that share a storage
    sparse     size of a file over 1 GiB, divided by what it occupies on the disk
    """

    header: int = 100_000_000
    values: int = 3_000_000
    keys: int = 50_000
    tensors: int = 200_000
    repeated: int = 1 << 26
    bytes: int = 1 << 30
    sparse: int = 64

    def bytes_of(self, size: int) -> int:
        """What the tensors of a file of `size` bytes may hold together."""
        return max(self.bytes, 16 * size)


def weights_limits() -> WeightsLimits:
    """The defaults, or what POLYMODAL_WEIGHTS_LIMITS says.  Raises ConfigError."""
    return limits_from(VARIABLE, WeightsLimits())


class OverLimit(ValueError):
    """Something is over a limit; the message says which, and how to raise it."""


def over(name: str, what: str, limit: int) -> OverLimit:
    """what: "its pickle has more instructions" ... than the limit `name` allows."""
    return OverLimit(
        f"{what} than the limit of {limit:,} allows; for a file of your own set {VARIABLE}={name}={10 * limit}"
    )
