"""The contact sheet of a search: one HTML file with its thumbnails inside, that asks for nothing outside.

Names of files are text of strangers: they are escaped, and stand apart from the text around them whatever direction
their letters have.  The page allows itself no script and no request (Content-Security-Policy).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polymodal.cli.output import counted
from polymodal.errors import PolymodalError
from polymodal.html_page import escaped, page, picture_tag

if TYPE_CHECKING:
    from polymodal.pipelines.media_index import Hit

SIDE = 320  # pixels of a thumbnail's longer side; shown at half of it, sharp on fine screens
STYLE = """
ol { margin: 0; padding: 0; list-style: none; display: grid; gap: 1rem;
     grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); }
a { display: flex; flex-direction: column; height: 100%; border: 1px solid var(--line); border-radius: 8px;
    overflow: hidden; background: var(--card); color: inherit; text-decoration: none; }
a:focus-visible, a:hover { outline: 2px solid #2f6fde; }
.picture { height: 11rem; display: flex; align-items: center; justify-content: center; padding: .4rem;
           color: var(--soft); }
img { max-width: 100%; max-height: 100%; object-fit: contain; }
.name { padding: .5rem .7rem .6rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.name small { display: block; color: var(--soft); font-variant-numeric: tabular-nums; }
"""


def contact_sheet(title: str, folder: Path, model: str, hits: Sequence[Hit]) -> str:
    """The whole document.  title: the query."""
    count = f"{counted(len(hits), 'result')} in {folder}"
    note = f"<bdi>{escaped(count)}</bdi> · {escaped(model)}"
    return page(title, note, f"<ol>\n{''.join(card(hit, folder) for hit in hits)}</ol>\n", STYLE)


def card(hit: Hit, folder: Path) -> str:
    """One result: its thumbnail, or the word for what it is, its score and its name; a link to the file."""
    name = hit.path.relative_to(folder) if hit.path.is_relative_to(folder) else hit.path
    return (
        f'<li><a href="{escaped(hit.path.absolute().as_uri())}"><span class="picture">{thumbnail(hit.path)}</span>'
        f'<span class="name"><bdi>{escaped(name)}</bdi><small>{hit.score:.3f}</small></span></a></li>\n'
    )


def thumbnail(path: Path) -> str:
    """An <img> with the picture in it; a word for a sound, and for a file that can no longer be read."""
    from polymodal.data.limits import own_limits
    from polymodal.data.media import Image, guess_media

    try:
        item = guess_media(path, own_limits())
        if not isinstance(item, Image):
            return escaped(getattr(item, "modality", "text"))
        picture = item.picture.copy()
    except PolymodalError:
        return "cannot be read"
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=82)
    return picture_tag(data.getvalue(), "jpeg")
