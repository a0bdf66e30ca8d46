"""Drawings (SVG) as pictures, by resvg, which is a package of its own: pip install resvg-py."""

from __future__ import annotations

from pathlib import Path

from polymodal.errors import MediaError

SIDE = 448  # pixels of the width


class NoSVG(MediaError):
    """resvg-py is not installed."""


def svg_bytes(path: Path, width: int = SIDE) -> bytes:
    """The drawing as a PNG file.  Raises NoSVG without resvg-py, MediaError for a drawing that is broken."""
    try:
        import resvg_py
    except ImportError as error:
        raise NoSVG(f"drawing {path} needs resvg-py; install it with: pip install resvg-py") from error
    try:
        return bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=width))
    except Exception as error:  # the binding raises its own unnamed exceptions
        raise MediaError(f"cannot draw {path}: {error}") from error
