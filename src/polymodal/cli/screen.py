"""A rich console that prints the words of strangers as words: no escape of theirs reaches the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from polymodal.printable import clean


class Screen(Console):
    """Cleans the text of all that is printed; colours and movements are rich's own."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control is not None else Segment(clean(segment.text), segment.style)
