"""Convolutions and norms of Flax modules, flattened with "/" -> torch's: kernels lie the other way round."""

from __future__ import annotations

from collections.abc import Iterator

from polymodal.weights.keytable import Row, rename
from polymodal.weights.operations import Transpose

CONV = (Transpose(-2, -1), Transpose(0, 2), Transpose(1, 3))  # [h, w, in, out] -> [out, in, h, w]


def conv(source: str, target: str) -> Iterator[Row]:
    """A convolution and its bias."""
    yield rename(f"{source}/kernel", f"{target}.weight", *CONV)
    yield rename(f"{source}/bias", f"{target}.bias")


def norm(source: str, target: str) -> Iterator[Row]:
    """A norm's scale and its bias."""
    yield rename(f"{source}/scale", f"{target}.weight")
    yield rename(f"{source}/bias", f"{target}.bias")
