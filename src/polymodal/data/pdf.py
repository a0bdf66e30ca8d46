"""Pages of a PDF as pictures, through pypdfium2 or PyMuPDF, whichever is installed; nothing else needs them.

    file -> number of pages -> one page at a time, at RESOLUTION dots an inch or as large as the limits allow -> RGB

Trap: a page may claim any size; what it takes in memory is bounded before it is drawn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.data.limits import Limits
from polymodal.data.source import clean_name, open_source
from polymodal.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image as Pillow

MAGIC = b"%PDF-"
RESOLUTION = 150  # dots an inch: an A4 page has 1240 x 1754 pixels
POINTS = 72  # units of a page, an inch
MAX_PIXELS = 16_000_000
RASTERISERS = ("pypdfium2", "pymupdf")


def is_pdf(path: Path, limits: Limits) -> bool:
    """Whether a file begins as a PDF does; False for one that cannot be read."""
    try:
        with open_source(path, limits) as opened:
            return opened.head.startswith(MAGIC)
    except MediaError:
        return False


def page_count(path: Path, limits: Limits) -> int:
    """The number of pages.  Raises MediaError: damaged, locked, without pages, or no rasteriser is installed."""
    return _with_document(path, limits, lambda kind, document: len(document))


def read_page(path: Path, number: int, limits: Limits) -> Pillow.Image:
    """Page `number`, from 1 on, as an RGB picture on white.  Raises MediaError."""
    most = min(limits.pixels, MAX_PIXELS)

    def draw(kind: str, document: Any) -> Pillow.Image:
        if not 1 <= number <= len(document):
            raise MediaError(f"{clean_name(path.name)} has {len(document)} pages, there is no page {number}")
        page = document[number - 1]
        width, height = page.get_size() if kind == "pypdfium2" else (page.rect.width, page.rect.height)
        scale = min(RESOLUTION / POINTS, (most / max(width * height, 1)) ** 0.5)
        if kind == "pypdfium2":
            return page.render(scale=scale).to_pil().convert("RGB")
        from PIL import Image

        drawn = page.get_pixmap(dpi=max(1, int(scale * POINTS)), alpha=False)
        return Image.frombytes("RGB", (drawn.width, drawn.height), drawn.samples)

    return _with_document(path, limits, draw)


def _with_document(path: Path, limits: Limits, work: Callable[[str, Any], Any]) -> Any:
    """What `work(rasteriser, open document)` returns; whatever the library raises is a damaged file."""
    name = clean_name(path.name)
    kind = next((each for each in RASTERISERS if importlib.util.find_spec(each) is not None), None)
    if kind is None:
        raise MediaError(f"{name} is a PDF; its pages are read where pypdfium2 is installed: pip install pypdfium2")
    with open_source(path, limits) as opened:
        data = opened.file.read(limits.bytes)
    try:
        if kind == "pypdfium2":
            import pypdfium2

            document = pypdfium2.PdfDocument(data)
        else:
            import pymupdf

            document = pymupdf.open(stream=data, filetype="pdf")
        try:
            if not len(document):
                raise MediaError(f"{name} has no pages")
            return work(kind, document)
        finally:
            document.close()
    except MediaError:
        raise
    except Exception as problem:  # each of the libraries has classes of its own
        raise MediaError(f"{name} cannot be read as a PDF: it is damaged or locked with a password") from problem
