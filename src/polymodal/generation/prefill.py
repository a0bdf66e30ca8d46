"""A prompt on its way into a cache: only what the cache does not hold yet, some tokens at a time.

    conversations, cache of their prefixes -> features of the new media -> embeddings of the rest -> Prefill
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

from polymodal.data.processor import Encoded, MediaSpan, Processor
from polymodal.data.tokenizer import pad_id_of
from polymodal.generation.decode_state import DecodeState, Prefill, cast_batch
from polymodal.generation.feature_cache import FeatureCache, Measure, unmeasured
from polymodal.generation.shapes import ShapesOnly
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.cache import KVCache


@torch.inference_mode()
def prefill_after(
    model: MultimodalLM,
    processor: Processor,
    rows: Sequence[Encoded],
    cache: KVCache,
    features: FeatureCache,
    measure: Measure = unmeasured,
    tenant: str = "",
) -> Prefill:
    """What follows the columns that `cache` holds of conversations, embedded; not for encoder-decoders.

    The rows end in one column, as where they are padded on the left; no item begins before the first new column and
    ends behind it.  Several rows of a model with a context need positions that just count.
    """
    column = cache.length
    mask = _mask(rows, cache)
    new_spans = [[span for span in row.media_spans if span.first >= _first(row, rows, column)] for row in rows]
    needed = new_spans if model.context is None else [row.media_spans for row in rows]
    found = features.features(model, processor, [span for spans in needed for span in spans], measure, tenant)
    device = model.backbone.embed_tokens.weight.device
    if model.prepare_inputs is None and model.context is None and processor.finish is None:
        batch, context = suffix_batch(processor, rows, column, device), None
    elif model.context is None:
        # Each by itself: padding may shift the positions that a published rule gives.
        tails = [suffix_batch_with_context(model, processor, [row], {}, _first(row, rows, column))[0] for row in rows]
        batch, context = stacked(tails, pad_id_of(processor.tokenizer) if len(rows) > 1 else 0), None
    else:
        batch, context = suffix_batch_with_context(model, processor, rows, found, column)
    batch["item_counts"] = {
        name: torch.tensor([sum(span.item.modality == name for span in spans) for spans in new_spans])
        for name in processor.modalities
    }
    state = DecodeState(
        model=model,
        cache=cache,
        prompts=[row.input_ids for row in rows],
        position=batch["position_ids"][..., -1],
        mask=None if mask is None else mask.to(device),
        context=context,
        logits=torch.empty(0),
    )
    return Prefill(
        state=state,
        embeds=model.embed_inputs(batch, _of(new_spans, needed, found)),
        position_ids=batch["position_ids"],
        token_types=batch.get("token_types"),
    )


def _first(row: Encoded, rows: Sequence[Encoded], column: int) -> int:
    """The token of a row that stands in a column, or its first."""
    return max(0, column - max(map(len, rows)) + len(row))


def _mask(rows: Sequence[Encoded], cache: KVCache) -> Tensor | None:
    """bool [rows, capacity] as DecodeState has it."""
    width = max(map(len, rows))
    if all(len(row) == width for row in rows):
        return None
    begins = torch.tensor([width - len(row) for row in rows])
    return torch.arange(cache.capacity) >= begins[:, None]


def _of(
    new: Sequence[Sequence[MediaSpan]], needed: Sequence[Sequence[MediaSpan]], found: Mapping[str, list[Tensor]]
) -> dict[str, list[Tensor]]:
    """The features of the new items, out of those of all that were needed: in each row the last ones."""
    chosen: dict[str, list[Tensor]] = {}
    for name, values in found.items():
        first = 0
        for spans, some in zip(needed, new, strict=True):
            count, fresh = (sum(span.item.modality == name for span in each) for each in (spans, some))
            chosen.setdefault(name, []).extend(values[first + count - fresh : first + count])
            first += count
    return {name: values for name, values in chosen.items() if values}


def suffix_batch(processor: Processor, rows: Sequence[Encoded], column: int, device: torch.device) -> dict[str, Any]:
    """The batch of conversations from a column on, for a model whose positions count tokens."""
    width = max(map(len, rows)) - column
    pad = 0 if all(len(row) >= width for row in rows) else pad_id_of(processor.tokenizer)

    def table(values: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*[fill] * (width - len(given)), *given][-width:] for given in values], device=device)

    batch = {
        "input_ids": table([row.input_ids[-width:] for row in rows], pad),
        "position_ids": table([range(_first(row, rows, column), len(row)) for row in rows], 0),
    }
    types = [row.token_types[-width:] for row in rows]
    return batch | {"token_types": table(types, 0)} if any(map(any, types)) else batch


def suffix_batch_with_context(
    model: MultimodalLM, processor: Processor, rows: Sequence[Encoded], features: Mapping[str, Any], column: int
) -> tuple[dict[str, Any], Any]:
    """The batch of conversations from a column on, and its context, where they follow from all of them."""
    weight = model.backbone.embed_tokens.weight
    names = {"input_ids", "token_types", *(inputs.placeholder_mask for inputs in model.inputs.values())}
    for collate, around in ((collate_shapes, ShapesOnly()), (collate_left, nullcontext())):
        try:
            with around:
                full = model.prepare_batch(cast_batch(collate(processor, rows), weight))
                context = model.context_for(features, full)
        except (NotImplementedError, RuntimeError, TypeError):
            if collate is collate_left:
                raise
            continue  # something of a user's own looks at values: it gets them, and its own mistakes come from there
        tail = {name: full[name][:, column:] for name in names if full.get(name) is not None}
        tail["position_ids"] = full["position_ids"][..., column:]
        if not any(value.is_meta for value in tail.values()):
            break
    return tail, context


def stacked(tails: Sequence[Mapping[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """Batches of one row as one, padded on the left; what a row lacks is zeros."""
    width = max(tail["input_ids"].shape[1] for tail in tails)
    table: dict[str, list[Tensor]] = {}
    for name in dict.fromkeys(name for tail in tails for name in tail):
        like = next(tail[name] for tail in tails if name in tail)
        for tail in tails:
            ids = tail["input_ids"]
            value = tail[name] if name in tail else torch.zeros_like(ids, dtype=like.dtype)
            fill = pad if name == "input_ids" else 0
            padded = torch.nn.functional.pad(value, (width - ids.shape[1], 0), value=fill)
            table.setdefault(name, []).append(padded)
    return {name: torch.cat(values, -2) for name, values in table.items()}


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
