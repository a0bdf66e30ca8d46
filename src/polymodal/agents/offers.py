"""What a published agent offers its planner: its own names for tasks, each filled by whatever tool is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.agents.tasks import TASKS
from polymodal.agents.tools import Tool, Toolbox


@dataclass(frozen=True, kw_only=True)
class Offer:
    """name: as the paper's code spells it.  tasks: which tools can do it, the first that is there; () for a model that
    has no local counterpart.  description: in our words."""

    name: str
    tasks: tuple[str, ...] = ()
    description: str = ""

    @property
    def signature(self) -> tuple[str, str]:
        """(inputs, output) in words, for the drawing."""
        found = TASKS.get(self.tasks[0]) if self.tasks else None
        return ("", "") if found is None else (", ".join(found.inputs.values()), found.output)


def offers(*rows: tuple[str, str, str]) -> tuple[Offer, ...]:
    """From rows of (name, tasks with spaces between, description)."""
    return tuple(Offer(name=name, tasks=tuple(tasks.split()), description=about) for name, tasks, about in rows)


def offered(offers: Sequence[Offer], box: Toolbox) -> tuple[Tool, ...]:
    """The offers for which there is a tool, under their names."""
    found = ((offer, box.first(*offer.tasks)) for offer in offers)
    return tuple(tool.named(offer.name, offer.description) for offer, tool in found if tool is not None)
