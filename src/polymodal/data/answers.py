"""What a model that chooses its answers can say: the names of its columns, held by its processor.

answers_in(processor) -> ("yes", "no", "blue", ...), () where a model writes its answers or classifies otherwise
"""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class NamesAnswers(Protocol):
    """A processor that knows what the columns of its model's logits mean."""

    answers: tuple[str, ...]


def answers_in(processor: Any) -> tuple[str, ...]:
    """The names of the answers, in the order of the logits' columns."""
    return processor.answers if isinstance(processor, NamesAnswers) else ()
