"""POST /v1/embeddings: texts, pictures and sound as vectors of length 1."""

from __future__ import annotations

import base64
from typing import Any

from polymodal.data.media import Media, Text
from polymodal.data.messages import user
from polymodal.serve.errors import Refused
from polymodal.serve.isolation import isolated
from polymodal.serve.models import ServedModel
from polymodal.serve.schemas import Embeddings
from polymodal.serve.settings import Settings


async def embeddings(body: Embeddings, model: ServedModel, settings: Settings) -> dict[str, Any]:
    """The vectors in the order of the inputs.  Raises Refused, PolymodalError."""
    limits = settings.requests
    given = body.input if isinstance(body.input, list) else [body.input]
    if len(given) > limits.inputs:
        raise Refused(413, f"input: {len(given)} items, the limit is {limits.inputs}", param="input")
    if (characters := sum(len(each) for each in given if isinstance(each, str))) > limits.text:
        raise Refused(413, f"input: {characters:,} characters, the limit is {limits.text:,}", param="input")
    items: list[Text | Media] = []
    for index, each in enumerate(given):
        message = isolated(user(each, files=False, limits=settings.media), model.decoders)
        if isinstance(message.parts[0], Text) and not message.parts[0].text.strip():
            raise Refused(400, f"input[{index}] is empty", param="input")
        items.append(message.parts[0])
    if sum(isinstance(item, Media) for item in items) > limits.media:
        raise Refused(413, f"input: more than {limits.media} media, the limit", param="input")
    if body.dimensions is not None and body.dimensions != (size := await model.dimensions(items[0])):
        found = f"{model.name} has vectors of {size} dimensions"
        raise Refused(400, f"dimensions: {found}, found {body.dimensions}", param="dimensions")
    vectors = await model.vectors(items)
    tokenizer = getattr(model.model.processor, "tokenizer", None)
    texts = [item.text for item in items if isinstance(item, Text)]
    tokens = 0 if tokenizer is None else sum(len(tokenizer.encode(text)) for text in texts)  # of texts; media have none
    rows = vectors.float().cpu().numpy()
    return {
        "object": "list",
        "model": model.name,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": row.tolist()
                if body.encoding_format == "float"
                else base64.b64encode(row.astype("<f4").tobytes()).decode(),
            }
            for index, row in enumerate(rows)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
