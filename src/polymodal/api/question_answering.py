"""`Model.answer`: questions to models that choose among the answers they were trained on.

question and media -> processor -> logits [1, answers] -> the likeliest answers with their shares
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from polymodal.api.inputs import check_media
from polymodal.api.media import as_media
from polymodal.api.reply import Label
from polymodal.api.tensors import require_finite
from polymodal.data.answers import answers_in
from polymodal.data.messages import user
from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from polymodal.api.model import Model


def can_answer(model: Model) -> bool:
    """Whether a model knows the answers that it chooses among."""
    return bool(answers_in(model.processor))


def answer(model: Model, *content: Any, top: int = 5) -> list[Label]:
    """The likeliest answers to a question about media, of all that the model knows: `answer("What is it?", regions)`.

    Probabilities are the softmax over all answers; the `top` first of them are given.
    Raises ConfigError for a model without such a head or for a `top` below 1, PromptError for media it does not take.
    """
    model.require("answer")
    known = answers_in(model.processor)
    if top < 1:
        raise ConfigError(f"answer: top must be 1 or more, found {top}")
    parts = [part if isinstance(part, str) else as_media(part) or part for part in content]
    message = user(*parts)
    check_media(model, *message.media)
    logits = model.logits(**model.processor([message]))
    chances = require_finite(logits.float().softmax(-1), "probabilities")[0]
    best = torch.topk(chances, min(top, len(chances)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [Label(label=known[i], probability=chance) for chance, i in found]
