"""libtiff prints what it thinks of a damaged file to stderr; what is said of a file is said in our one line."""

import ctypes
from functools import cache

from PIL import Image as Pillow


@cache
def silence_libtiff() -> None:
    """Take libtiff's printing handlers away, once; where it cannot be reached from here, it goes on printing."""
    try:
        # The symbols of the libraries that Pillow's own is linked with are found through it.
        library = ctypes.CDLL(Pillow.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
    except (AttributeError, OSError):
        return
