"""What `Model.classify` and `Model.embed` do with items: paths, media, PIL images, pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from polymodal.api.inputs import check_labels, checked_item, suggesting_others
from polymodal.api.media import is_recording, media_of
from polymodal.api.reply import Label
from polymodal.api.tensors import answering, require_finite
from polymodal.errors import ConfigError
from polymodal.pipelines.batches import in_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from polymodal.api.model import Model


def classify(
    model: Model, score: Callable[..., Any], items: Any, labels: Sequence[str], batch_size: int
) -> list[Label] | list[list[Label]]:
    """The labels of an item, likeliest first, or of each of a list of items.  score: (media, labels) -> [N, labels]."""
    labels = check_labels(labels)
    several = isinstance(items, list | tuple) and not is_recording(items)
    if several and not items:
        raise ConfigError("classify needs at least one item, found none")
    with torch.inference_mode(), answering(model), suggesting_others(model) as noted:
        media = (noted(media_of(item)) for item in (items if several else [items]))
        scores = in_batches(media, lambda some: score(some, labels), batch_size)
        table = require_finite(scores, "probabilities").tolist()
    found = [
        sorted((Label(label=label, probability=p) for label, p in zip(labels, row, strict=True)),
               key=lambda label: -label.probability)
        for row in table
    ]  # fmt: skip
    return found if several else found[0]


def embed(model: Model, encode: Callable[..., Any], items: Sequence[Any], batch_size: int) -> Tensor:
    """Vectors [N, D] of items.  encode: media of one kind -> [n, D]."""
    if not isinstance(items, list | tuple) or is_recording(items) or not items:
        found = "none" if isinstance(items, list | tuple) else type(items).__name__
        raise ConfigError(f"embed needs a list of at least one item, found {found}; as in model.embed([item])")
    with torch.inference_mode(), answering(model), suggesting_others(model) as noted:
        media = (noted(checked_item(media_of(item))) for item in items)
        return require_finite(in_batches(media, encode, batch_size), "vectors")
