"""A prompt on its way into a cache: only what the cache does not hold yet, some tokens at a time.

    conversation, cache of its prefix -> features of the new media -> embeddings of the rest -> Prefill
    Prefill.advance(tokens) -> ... -> done: state.logits are those behind the prompt

Where a model's positions just count, nothing of the prefix is touched.  Where the published rule reads the whole
conversation (grids of pictures, routes, cross-attention), it gets all ids, and the media as shapes without values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polymodal.data.processor import Encoded, Processor
from polymodal.generation.decode_state import DecodeState, Prefill, cast_batch
from polymodal.generation.feature_cache import FeatureCache, Measure, unmeasured
from polymodal.generation.shapes import ShapesOnly
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.cache import KVCache


@torch.inference_mode()
def prefill_after(
    model: MultimodalLM,
    processor: Processor,
    encoded: Encoded,
    cache: KVCache,
    features: FeatureCache,
    measure: Measure = unmeasured,
) -> Prefill:
    """What follows the tokens that `cache` holds of a conversation, embedded; not for encoder-decoders."""
    first = cache.length
    new_spans = [span for span in encoded.media_spans if span.first >= first]
    needed = new_spans if model.context is None else encoded.media_spans
    found = features.features(model, processor, needed, measure)
    device = model.backbone.embed_tokens.weight.device
    if model.prepare_inputs is None and model.context is None and processor.finish is None:
        batch, context = suffix_batch(encoded, first, device), None
    else:
        batch, context = suffix_batch_with_context(model, processor, encoded, found, first)
    batch["item_counts"] = {
        name: torch.tensor([sum(span.item.modality == name for span in new_spans)]) for name in processor.modalities
    }
    state = DecodeState(
        model=model,
        cache=cache,
        prompts=[encoded.input_ids],
        position=batch["position_ids"][..., -1],
        context=context,
        logits=torch.empty(0),
    )
    # Items are in order, so that the new ones are the last of their modality.
    counts = {name: int(count) for name, count in batch["item_counts"].items()}
    new = {name: values[len(values) - counts[name] :] for name, values in found.items() if counts[name]}
    return Prefill(
        state=state,
        embeds=model.embed_inputs(batch, new),
        position_ids=batch["position_ids"],
        token_types=batch.get("token_types"),
    )


def suffix_batch(encoded: Encoded, first: int, device: torch.device) -> dict[str, Any]:
    """The batch of one conversation from token `first` on, for a model whose positions count tokens."""
    types = encoded.token_types[first:]
    batch: dict[str, Any] = {
        "input_ids": torch.tensor([encoded.input_ids[first:]], device=device),
        "position_ids": torch.arange(first, len(encoded), device=device)[None],
    }
    return batch | {"token_types": torch.tensor([types], device=device)} if any(types) else batch


def suffix_batch_with_context(
    model: MultimodalLM, processor: Processor, encoded: Encoded, features: Mapping[str, Any], first: int
) -> tuple[dict[str, Any], Any]:
    """The batch of one conversation from token `first` on, and its context, where they follow from all of it."""
    weight = model.backbone.embed_tokens.weight
    names = {"input_ids", "token_types", *(inputs.placeholder_mask for inputs in model.inputs.values())}
    for collate, around in ((collate_shapes, ShapesOnly()), (collate_left, nullcontext())):
        try:
            with around:
                full = model.prepare_batch(cast_batch(collate(processor, [encoded]), weight))
                context = model.context_for(features, full)
        except (NotImplementedError, RuntimeError, TypeError):
            if collate is collate_left:
                raise
            continue  # something of a user's own looks at values: it gets them, and its own mistakes come from there
        tail = {name: full[name][:, first:] for name in names if full.get(name) is not None}
        tail["position_ids"] = full["position_ids"][..., first:]
        if not any(value.is_meta for value in tail.values()):
            break
    return tail, context


def collate_left(processor: Processor, rows: Sequence[Encoded]) -> dict[str, Any]:
    """The batch of whole conversations, padded on the left."""
    return processor.collate(rows, padding="left")


def collate_shapes(processor: Processor, rows: Sequence[Encoded]) -> dict[str, Any]:
    """The same with media that have shapes but no values (meta tensors): all that a batch needs beside the features."""
    bare = [
        replace(
            row,
            media_spans=tuple(
                replace(span, item=replace(span.item, values=_ShapesOnly(span.item.values))) for span in row.media_spans
            ),
        )
        for row in rows
    ]
    return processor.collate(bare, padding="left")


def _ShapesOnly(values: Any) -> Any:
    """Floating-point tensors without their values; integer ones (sizes, grids, ids) as they are."""
    if isinstance(values, Tensor):
        return values.to("meta") if values.is_floating_point() else values
    return {name: _ShapesOnly(value) for name, value in values.items()} if isinstance(values, dict) else values
