"""Tokens and their log-probabilities as clients read them."""

from __future__ import annotations

from collections.abc import Iterator

from polymodal.generation.output import TokenLogprob
from polymodal.serve.models import ServedModel

LEAST = -9999.0  # JSON has no infinity; OpenAI writes this for what is impossible


def texts_of(found: TokenLogprob, model: ServedModel) -> Iterator[tuple[str, float]]:
    """(text, log-probability) of a token that was written, then of the likeliest in its place.

    A special token has its name for a text.
    """
    for index, logprob in ((found.id, found.logprob), *found.top):
        yield model.model.processor.tokenizer.decode([index], skip_special=False), max(logprob, LEAST)
