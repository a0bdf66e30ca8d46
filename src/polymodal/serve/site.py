"""The page at /, and what it shows of the catalogue.  Its files are part of the package; nothing is from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

from polymodal import systems
from polymodal.serve.drawings import Drawings
from polymodal.serve.errors import Refused
from polymodal.systems import as_dict

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FILES = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
NOTHING = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # of a drawing that is opened by itself
# The page itself holds no secret; what it asks for needs the key.
PUBLIC = frozenset({"/", *(f"/page/{name}" for name in FILES)})


def add_site(app: FastAPI) -> None:
    """The routes of the page."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        return _file(name)

    @app.get("/api/systems")
    def list_systems() -> list[dict[str, Any]]:
        """Every system of the catalogue, as `polymodal systems --json`."""
        return [as_dict(systems.get(name)) for name in systems.ids()]

    drawings = Drawings()

    @app.get("/api/drawings/{name}.svg", response_class=Response)
    async def drawing(name: str) -> Response:
        """The architecture of a system, as `polymodal show --svg`."""
        return Response(
            await drawings.svg(name), media_type=TYPES[".svg"], headers={"Content-Security-Policy": NOTHING}
        )


def _file(name: str) -> Response:
    if name not in FILES:
        raise Refused(404, "the page has no such file")
    kind = TYPES[Path(name).suffix]
    return Response(FILES[name], media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})
