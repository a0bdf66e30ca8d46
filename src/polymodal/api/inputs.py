"""Whether a model takes an item of media, before anything is computed; and which system would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polymodal import systems
from polymodal.data.media import Media, Text
from polymodal.errors import PromptError

if TYPE_CHECKING:
    from polymodal.api.model import Model

DEFAULT = "mini"
MOST = 3
"""Systems that a message names."""


def check_media(model: Model, *items: Media | Text) -> None:
    """Raises PromptError for media of a modality that the model does not take, naming systems that do."""
    # In the order of the record, then what this variant's processor takes besides.
    takes = dict.fromkeys([*model.system.inputs, *(model.processor.modalities if model.processor is not None else ())])
    for item in items:
        if isinstance(item, Media) and item.modality and item.modality not in takes:
            others = able_to_read(item.modality)
            hint = f"; try {either(others)}" if others else ""
            raise PromptError(f"{model.system.id} cannot read {item.modality}; it takes {', '.join(takes)}{hint}")


def either(names: Sequence[str]) -> str:
    """ "a", "a or b", "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def able_to_read(modality: str) -> list[str]:
    """Ids of the systems that answer in text about a modality: the default model first, then the newest."""
    records = [systems.get(name) for name in systems.ids()]
    able = [each for each in records if modality in each.inputs and "text" in each.outputs]
    able.sort(key=lambda each: (each.id != DEFAULT, -each.year))
    return [each.id for each in able[:MOST]]
