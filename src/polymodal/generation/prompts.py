"""Conversations as rows that ask for their answer.

messages -> Processor.rewrite (speech that enters as its words) -> template -> segments -> Encoded
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

import torch

from polymodal.data.messages import Media, Message
from polymodal.data.processor import Encoded, Prepared, Processor
from polymodal.errors import PromptError
from polymodal.generation.feature_cache import Measure, unmeasured
from polymodal.models.multimodal_lm import MultimodalLM


@torch.inference_mode()
def encode(
    processor: Processor,
    messages: Sequence[Message],
    prepared: MutableMapping[int, tuple[Media, Prepared]] | None = None,
    measure: Measure = unmeasured,
) -> Encoded:
    """A conversation as the row that asks for its answer: `Processor.encode` in its two steps, each measured.

    Recordings that enter as their words are heard first ("encode"), the rest is "decode".  Raises PromptError for one
    that is too long.
    """
    if processor.rewrite is not None:
        with measure("encode"):
            messages = processor.rewrite(tuple(messages))
    with measure("decode"):
        segments = processor.template.render(messages, ask=True)
        return processor.fit(processor.encode_segments(segments, memo=prepared))


def check_ids(model: MultimodalLM, processor: Processor, ids: Sequence[int]) -> None:
    """Raises PromptError for an id that the model's table of embeddings has no row for.

    A tokenizer file may hold more tokens than the model was trained with; an id of a placeholder is never looked up.
    """
    size = model.backbone.config.vocab_size
    known = {*processor.placeholders.values(), *model.placeholders.values()}
    beyond = next((id for id in ids if id >= size and id not in known), None) if ids and max(ids) >= size else None
    if beyond is not None:
        token = processor.tokenizer.decode([beyond], skip_special=False)
        raise PromptError(
            f"the token {token!r} has the id {beyond}, but the model knows {size} tokens; leave it out of the text"
        )
