"""The errors a user can meet.

Each message is one line that names the thing, what was expected, what was found and what to do.  The command
line prints that line and exits with code 2, or 1 where the machine is at fault; any other exception is a bug of ours.
"""


class PolymodalError(Exception):
    """Base of every error that is not a defect of the library: invalid input, or something missing on the machine."""


class MediaError(PolymodalError):
    """A picture, recording or video that is missing, empty, damaged, of an unknown format or over a limit."""


class WeightsError(PolymodalError):
    """A weights file that is missing, damaged, unsafe, does not match its hash or does not fit the model."""


class NotFinite(WeightsError):
    """Scores, vectors or probabilities that are no numbers (NaN, infinite): no answer is made of them."""


class Unreachable(WeightsError):
    """No answer from a hub or registry: no network, a wrong proxy, a server that is down.  Exit code 1, not 2."""


class StorageError(WeightsError):
    """The cache folder cannot be written: a full disk, a quota, a read-only folder.  Exit code 1, not 2."""


class UnknownName(PolymodalError):
    """A system, variant, part or option that does not exist; the message suggests the nearest name."""


class PromptError(PolymodalError):
    """Messages that cannot become a sequence: wrong roles, more or fewer media than placeholders, too long."""


class ConfigError(PolymodalError):
    """Settings that do not fit together or are out of range."""
