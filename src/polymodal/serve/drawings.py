"""Drawings of the systems of the catalogue, as `polymodal show --svg`: made when first asked for, one at a time."""

from __future__ import annotations

import asyncio

from polymodal import systems
from polymodal.diagram.describe import describe
from polymodal.diagram.layout import scene_of
from polymodal.diagram.svg import to_svg
from polymodal.serve.errors import Refused


class Drawings:
    """SVG by id.  There are no more than systems, and none is larger than 100 kB, so that all are kept."""

    def __init__(self) -> None:
        self._made: dict[str, bytes] = {}
        self._one = asyncio.Lock()

    async def svg(self, name: str) -> bytes:
        """Raises Refused (404) for what is not in the catalogue."""
        if name not in systems.ids():
            raise Refused(404, f"the catalogue has no system {name[:80]!r}")
        async with self._one:
            if name not in self._made:
                self._made[name] = await asyncio.to_thread(draw, name)
        return self._made[name]


def draw(name: str) -> bytes:
    """A system at the size of its first variant."""
    system = systems.get(name)
    scene = scene_of([describe(system, system.variants[0])])
    return to_svg(scene).encode("utf-8", "backslashreplace")
