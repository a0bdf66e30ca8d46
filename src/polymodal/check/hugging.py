"""Cases and sizes whose oracle is the transformers library (extra `parity`): built from a config, filled with random
weights, saved as it saves, run on inputs.

Nothing is fetched: a config is all that is needed.  What is read of the library goes through `library.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import library
from polymodal.check.library import Library
from polymodal.check.record import Case, Expected, Shapes, Size, Tensors
from polymodal.weights.build import nothing_drawn


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the oracle is read: logits(model, inputs); features(model, inputs) by modality; None: not compared.

    predictions(model, inputs) by name.  written(model, inputs, options) -> ids of 16 greedy steps, where `greedy` does
    not do.
    """

    logits: Callable[[Any, Tensors], Tensor] | None = library.logits
    features: Callable[[Any, Tensors], Mapping[str, Any]] | None = None
    written: Callable[[Any, Tensors, dict[str, Any]], Tensor] | None = None
    predictions: Callable[[Any, Tensors], Mapping[str, Any]] | None = None


def hugging_case(
    name: str,
    model: str,
    config: Callable[[Library], Any],
    inputs: Callable[[Any], Tensors],
    *,
    reading: Reading = Reading(),
    generate: bool | Callable[[Any], Tensors] = False,
    alone: Callable[[Any, Tensors], Iterable[tuple[int, Tensors]]] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Case:
    """config(transformers) -> its config object; inputs(config) -> tensors as its processor would give them.

    generate: True to compare 16 greedy steps on the same inputs, or config -> other inputs for it.
    alone(config, inputs) -> rows by themselves.
    """

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers:
            settings = config(transformers)
            oracle = library.built(transformers, model, settings)
            library.saved(oracle, folder)
            given = inputs(settings)
            with torch.no_grad():
                logits = None if reading.logits is None else reading.logits(oracle, given)
                features = None if reading.features is None else reading.features(oracle, given)
                predictions = None if reading.predictions is None else reading.predictions(oracle, given)
                prompt = generate(settings) if callable(generate) else given
                ids = (reading.written or library.greedy)(oracle, prompt, dict(options or {})) if generate else None
        return Expected(
            inputs=given,
            logits=logits,
            features=features,
            predictions=predictions,
            prompt=prompt,
            generated=ids,
            alone=tuple(alone(settings, given)) if alone is not None else (),
            options=options or {},
        )

    return Case(name=name, make=make, needs="transformers")


def hugging_size(variant: str, model: str, config: Callable[[Library], Any], own_head: str = "") -> Size:
    """A published size by the library: built on the meta device, names as it writes them to disk.

    own_head: the linear that the library ties until it finds other values in a file, where the published one has them.
    """

    @cache
    def counted() -> tuple[Shapes, int]:
        """Shapes and the number of parameters; the model itself is not kept."""
        with library.quiet() as transformers, nothing_drawn():
            oracle = getattr(transformers, model)(config(transformers))
            if own_head:
                head = library.part(oracle, own_head)
                head.weight = nn.Parameter(torch.empty_like(head.weight))
        named = {name: tuple(x.shape) for name, x in library.names_on_disk(oracle).items()}
        return named, sum(p.numel() for p in oracle.parameters())

    return Size(
        variant=variant,
        shapes=lambda: counted()[0],
        source=f"transformers {model} on the meta device, names as it saves them"
        + (", with the head untied as published" if own_head else ""),
        parameters=lambda: counted()[1],
        needs="transformers",
    )
