"""Whether a model takes an item of media, before anything is computed; and which system would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from polymodal import systems
from polymodal.data.limits import check_amount
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError

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


def check_conversation(model: Model, messages: Sequence[Message]) -> None:
    """Raises PromptError for what is too much to begin with, or media that the model does not take."""
    items = [item for message in messages for item in message.media]
    check_amount("items", len(items), "pictures, recordings or videos in one conversation")
    check_amount("characters", sum(len(message.text) for message in messages), "characters of text in one conversation")
    check_media(model, *items)


def checked_item(item: Media | Text) -> Media | Text:
    """The item itself.  Raises PromptError for a text that is too long."""
    if isinstance(item, Text):
        check_amount("characters", len(item.text), "characters of text")
    return item


def check_labels(labels: Any) -> list[str]:
    """The labels of `classify`.  Raises ConfigError unless they are two or more different texts, PromptError for more
    than `Limits.labels`."""
    texts = isinstance(labels, list | tuple) and all(isinstance(label, str) for label in labels)
    if texts:
        check_amount("labels", len(labels), "labels")
        check_amount("characters", sum(map(len, labels)), "characters of labels")
    if not texts or len(labels) < 2 or len(set(labels)) < len(labels):
        raise ConfigError(f"classify needs a list of two or more different labels; found {shortened(repr(labels))}")
    return [Text(label).text for label in labels]  # each must be Unicode


def shortened(text: str, longest: int = 200) -> str:
    """The beginning of a text that may be very long."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def either(names: Sequence[str]) -> str:
    """ "a", "a or b", "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


@contextmanager
def suggesting_others(model: Model) -> Iterator[Callable[[Media | Text], Media | Text]]:
    """Around `classify` and `embed`: a refusal of media names the systems whose vectors hold that modality.

    Yields a function to be called with each item before it is used; it returns the item.
    """
    seen: dict[str, None] = {}

    def note(item: Media | Text) -> Media | Text:
        if isinstance(item, Media) and item.modality:
            seen[item.modality] = None
        return item

    try:
        yield note
    except PromptError as problem:
        able = {modality: able_to_embed(modality, model.system.id) for modality in seen}
        found = next((modality for modality in seen if modality in str(problem) and able[modality]), None)
        if found is None:
            raise
        hint = f"try embed with {either(able[found])}, whose vectors compare {found} with text"
        raise PromptError(f"{problem}; {hint}") from problem


def able_to_embed(modality: str, but: str) -> list[str]:
    """Ids of the systems that make vectors of a modality, the newest first, without `but`."""
    records = [systems.get(name) for name in systems.ids() if name != but]
    able = [each for each in records if modality in each.inputs and "embedding" in each.outputs]
    return [each.id for each in sorted(able, key=lambda each: -each.year)[:MOST]]


def able_to_read(modality: str) -> list[str]:
    """Ids of the systems that answer in text about a modality: the default model first, then the newest."""
    records = [systems.get(name) for name in systems.ids()]
    able = [each for each in records if modality in each.inputs and "text" in each.outputs]
    able.sort(key=lambda each: (each.id != DEFAULT, -each.year))
    return [each.id for each in able[:MOST]]
