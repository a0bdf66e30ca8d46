"""What the records of agents share: loading that needs no weights, and the boxes of their tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from polymodal.agents.offers import Offer
from polymodal.agents.record import Agent, Setup
from polymodal.checkpoints.record import LoadedModel, Part
from polymodal.systems._record import LoadOptions, Variant

TOOLS = Variant(name="tools", parameters=0, summary="no weights of its own: a planner and tools are given to it")


def loads(make: Callable[[Setup], Agent]) -> Callable[[Variant, LoadOptions], LoadedModel]:
    """A record's `load`: a module without parameters, and how a conversation begins."""

    def load(variant: Variant, options: LoadOptions) -> LoadedModel:
        from polymodal.agents.module import AgentModule

        return LoadedModel(model=AgentModule(make), processor=None)

    return load


def boxes(offers: Sequence[Offer]) -> Callable[[Variant], tuple[Part, ...]]:
    """A record's `parts`: its tools under the paper's names, with the kinds of what goes in and comes out."""

    def parts(variant: Variant) -> tuple[Part, ...]:
        return tuple(_box(offer) for offer in offers)

    return parts


def _box(offer: Offer) -> Part:
    given, made = offer.signature
    modality: Any = next((kind for kind in ("audio", "image") if kind in (given + made)), "text")
    return Part(slot="tool", name=offer.name, prefix="", input=given or "?", output=made or "?", modality=modality)
