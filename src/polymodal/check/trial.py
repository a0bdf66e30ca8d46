"""What a model of any kind is tried on, where nobody brought inputs for it: a picture, a sound, a few words.

    Model -> Trial: outputs(model) to compare, a batch with labels to learn, a prompt to continue

Through the model's own processor, where its folder has a tokenizer: then what goes wrong is the model's.  Else tensors
made up from the shapes that the drawing of its encoders says ("[N, 3, 336, 336]"), with as many placeholders as the
connector gives features; what a model refuses of these says nothing about it, and the next ones are tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.compare import item_ids
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.data.modalities import modality_of
from polymodal.errors import PolymodalError
from polymodal.models.multimodal_lm import MultimodalLM

Outputs = Mapping[str, Tensor]
RATE = 16_000
SHAPE = re.compile(r"(?:pixel_values )?\[N((?:, (?:\d+|[HWS]))+)\]")
WORDS, LABELS = ("a cat", "a dog"), -100


@dataclass(frozen=True, kw_only=True)
class Trial:
    """outputs(model) -> named tensors.  batch: with labels, None where the model does not learn from such.

    prompt: what `generate` continues, None where the model does not generate.  about: what went in, in words.
    """

    outputs: Callable[[Any], Outputs]
    about: str
    batch: Mapping[str, Any] | None = None
    prompt: Mapping[str, Any] | None = None


def trial(model: Any) -> Trial | None:
    """What to try a loaded `pm.Model` on; None where nothing made up here fits it.

    Raises what the model raises on conversations through its own processor.
    """
    if "chat" in model.can:
        return of_talks(model)
    for make in (of_ids, of_words, of_verbs, of_tensors, of_pairs):
        try:
            made = make(model)
            if made is not None and made.outputs(model):
                return made
        except (PolymodalError, KeyError, TypeError, RuntimeError):
            continue
    return None


def picture() -> Pillow.Image:
    """A picture of no meaning, 64 x 48."""
    values = (randomise.uniform("trial picture", 64 * 48 * 3) + 1.0) * 127.0
    return Pillow.fromarray(values.reshape(48, 64, 3).astype(np.uint8))


def media(modality: str) -> Media | None:
    """One item of a modality; None for those whose values only its system knows."""
    if modality in ("image", "depth", "thermal"):
        return pm.image(picture(), modality)
    if modality == "audio":
        return pm.audio((randomise.uniform("trial sound", RATE).astype(np.float32), RATE))
    return None


def of_talks(model: Any) -> Trial:
    """Two conversations through the model's processor: one with an item of each modality, one of words alone."""
    items = {name: item for name in model.processor.modalities if (item := media(name)) is not None}
    asked = Message(role="user", parts=(*items.values(), Text("What is this?")))
    plain = Message(role="user", parts=(Text("Who are you?"),))
    answer = Message(role="assistant", parts=(Text("A test."),))
    batch = model.processor([[asked, answer], [plain, answer]])
    return Trial(
        outputs=lambda model: whole(model, batch),
        about=f"two conversations with {', '.join(['text', *items])}",
        batch=batch,
        prompt=model.processor([asked], generate=True),
    )


def of_ids(model: Any) -> Trial | None:
    """A row of ids with an item of each modality whose encoder says its shape; of language models."""
    if not isinstance(model.module, MultimodalLM):
        return None
    module, tensors = model.module, encoder_inputs(model)
    with torch.no_grad():
        features = model.features(**tensors) if tensors else {}
    marked = item_ids(module).keys() - module.placeholders.keys()
    counts = {name: int(found[0].shape[0]) for name, found in features.items() if name in module.placeholders}
    counts |= {name: 1 for name in features if name in marked}
    return of_row(model, counts, tensors)


def of_words(model: Any) -> Trial | None:
    """A row of ids alone; of language models."""
    return of_row(model, {}, {}) if isinstance(model.module, MultimodalLM) else None


def of_row(model: Any, counts: Mapping[str, int], tensors: Mapping[str, Tensor]) -> Trial:
    """Words, the placeholders of an item of each modality, words; labels at the words."""
    placeholders = item_ids(model.module)
    ids = randomise.ids("trial words", (12,), 3, min(64, model.module.backbone.config.vocab_size)).tolist()
    items = [id for name, count in counts.items() for id in [placeholders[name]] * count]
    inputs = {"input_ids": torch.tensor([[*ids[:6], *items, *ids[6:]]]), **tensors}
    here = torch.tensor(list(placeholders.values()), dtype=torch.int64)
    labels = inputs["input_ids"].masked_fill(torch.isin(inputs["input_ids"], here), LABELS)
    return Trial(
        outputs=lambda model: whole(model, inputs),
        about=f"ids with {', '.join(['text', *counts])}",
        batch={**inputs, "labels": labels},
        prompt=inputs if "generate" in model.can else None,
    )


def of_verbs(model: Any) -> Trial | None:
    """A picture or a recording among labels, items as vectors, a recording as words."""
    items = [item for name in model.system.inputs if (item := media(name)) is not None]
    verbs: dict[str, Callable[[Any], Tensor]] = {}
    if "classify" in model.can and items:
        verbs["probabilities"] = lambda model: torch.tensor(
            [[each.probability for each in sorted(row, key=lambda each: each.label)]
             for row in model.classify(items, WORDS)])  # fmt: skip
    if "embed" in model.can:
        verbs["vectors"] = lambda model: model.embed([*items, *([] if items else [Text(words) for words in WORDS])])
    if "transcribe" in model.can:
        verbs["words"] = lambda model: torch.tensor(list(model.transcribe(media("audio")).text.encode()))
    about = f"{', '.join(verbs)} of {', '.join(item.modality for item in items) or 'text'}"
    return Trial(outputs=lambda model: {name: give(model) for name, give in verbs.items()}, about=about)


def of_tensors(model: Any) -> Trial | None:
    """The encoders' own tensors, where the drawing says their shapes."""
    tensors = encoder_inputs(model)
    return Trial(outputs=lambda model: whole(model, tensors), about=", ".join(tensors)) if tensors else None


def of_pairs(model: Any) -> Trial | None:
    """The same with a few ids, for encoders of both."""
    ids = randomise.ids("trial words", (1, 6), 3, 20)
    tensors = {**encoder_inputs(model), "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Trial(outputs=lambda model: whole(model, tensors), about=", ".join(tensors))


def encoder_inputs(model: Any) -> dict[str, Tensor]:
    """A random item for every encoder whose box of the drawing says its shape: pixel_values [1, 3, 336, 336], ..."""
    found = {}
    for part in model.system.drawing(model.variant):
        shape = SHAPE.match(part.input)
        if part.slot != "encoder" or shape is None:
            continue
        sizes = [int(size) if size.isdigit() else side(model.variant.config) for size in shape[1].split(", ")[1:]]
        if None in sizes:
            continue
        own = isinstance(model.module, MultimodalLM) and part.modality in model.module.inputs
        name = model.module.inputs[part.modality].values if own else modality_of(part.modality).values
        found[name] = randomise.values(name, (1, *(size or 0 for size in sizes)))
    return found


def side(config: Mapping[str, Any] | None) -> int | None:
    """The side of pictures, as configs say it at any depth."""
    for name, value in (config or {}).items():
        if name in ("image_size", "image_res", "img_size") and isinstance(value, int):
            return value
        if isinstance(value, Mapping) and (found := side(value)) is not None:
            return found
    return None


@torch.no_grad()
def whole(model: Any, inputs: Mapping[str, Any]) -> Outputs:
    """Everything a model gives of a batch, by name."""
    given = {name: value for name, value in inputs.items() if name != "labels"}
    found: dict[str, Tensor] = {}
    for name, value in model(**given)._asdict().items():
        for key, each in value.items() if isinstance(value, Mapping) else [("", value)]:
            named = f"{name} {key}".strip()
            items = [(f"{named} {i}", x) for i, x in enumerate(each)] if isinstance(each, list) else [(named, each)]
            found |= {item: tensor for item, tensor in items if isinstance(tensor, Tensor)}
    return found
