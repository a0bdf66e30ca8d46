"""Numbers from wherever they come -> one NumPy array, bounded and without pickles.

array, tensor, nested lists, path or bytes of a .npy file -> float32, or whole numbers and booleans as they are

The .npy header (numpy.lib.format, versions 1 to 3) is read here and not by NumPy, whose reader evaluates it as Python
and fails in many ways on a damaged one.
Trap: a header may claim more than the file holds; the size it claims is checked before anything is read.
"""

import math
import os
import re
from typing import Any, BinaryIO

import numpy as np

from polymodal.data.limits import Limits, how_to_raise
from polymodal.data.source import OpenFile, megabytes, open_source
from polymodal.errors import MediaError

_MAGIC = b"\x93NUMPY"
_TYPE = re.compile(r"""['"]descr['"]\s*:\s*['"]([<>|=]?[biuf][1-8])['"]""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([\d, ]{0,200})\)""")


def read_array(source: Any, limits: Limits) -> np.ndarray:
    """The numbers of a source.  Raises MediaError for what holds none, is damaged, or has more than `Limits.bytes`."""
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    if isinstance(source, str | os.PathLike | bytes):
        with open_source(source, limits) as opened:
            return _numbers(_read_file(opened), opened.name, limits)
    if hasattr(source, "detach"):  # a tensor, wherever it lies
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    try:
        return _numbers(np.asarray(source), "array", limits)
    except (ValueError, TypeError) as problem:
        found = type(source).__name__
        raise MediaError(f"array: expected rows of numbers of equal length, found {found}") from problem


def _read_file(opened: OpenFile) -> np.ndarray:
    header = _header(opened.file)
    matches = [pattern.search(header) for pattern in (_TYPE, _ORDER, _SHAPE)]
    if not all(matches):
        raise MediaError(f"{opened.name} is not a .npy file of numbers, or is damaged")
    descr, order, sizes = (each.group(1) for each in matches if each is not None)
    shape = tuple(int(size) for size in sizes.replace(" ", "").split(",") if size)
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise MediaError(f"{opened.name}: numbers of type {descr!r} are not known") from None
    expected = math.prod(shape) * dtype.itemsize
    if expected != opened.size - opened.file.tell():
        left = opened.size - opened.file.tell()
        raise MediaError(f"{opened.name} is damaged: {list(shape)} of {descr} need {expected} bytes, it holds {left}")
    flat = np.frombuffer(opened.file.read(expected), dtype)
    return flat.reshape(shape, order="F" if order == "True" else "C").astype(dtype.newbyteorder("="))


def _header(file: BinaryIO) -> str:
    """The text between magic and data; empty where there is none."""
    start = file.read(8)
    if start[:6] != _MAGIC or len(start) < 8:
        return ""
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    return file.read(min(length, 65536)).decode("latin-1")


def _numbers(array: np.ndarray, name: str, limits: Limits) -> np.ndarray:
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise MediaError(f"{name}: expected numbers, found {array.dtype} {list(array.shape)}")
    if array.nbytes > limits.bytes:
        raise MediaError(
            f"{name} has {megabytes(array.nbytes)}, the limit is {megabytes(limits.bytes)} "
            f"({how_to_raise('bytes', array.nbytes)})"
        )
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        return array.astype(np.float32) if array.dtype.kind == "f" else array
