"""Cases and sizes whose oracle is the transformers library (extra `parity`): built from a config, filled with random
weights, saved as it saves, run on inputs.

Nothing is fetched: a config is all that is needed.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import randomise
from polymodal.check.record import Case, Expected, Shapes, Size, Tensors

STEPS = 16
Library = Any  # the transformers module


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the oracle's outputs are read: logits(outputs); features(model, inputs) by modality; None: not compared.

    written(model, inputs, options) -> ids of 16 greedy steps, where `greedy` does not do.
    """

    logits: Callable[[Any], Tensor] | None = lambda outputs: outputs.logits
    features: Callable[[Any, Tensors], Mapping[str, Any]] | None = None
    written: Callable[[Any, Tensors, dict[str, Any]], Tensor] | None = None


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
        with quiet() as transformers:
            settings = config(transformers)
            oracle: Any = filled(getattr(transformers, model)(settings).eval())
            oracle.save_pretrained(folder)
            given = inputs(settings)
            with torch.no_grad():
                outputs = oracle(**given) if reading.logits is not None else None
                features = None if reading.features is None else reading.features(oracle, given)
                prompt = generate(settings) if callable(generate) else given
                ids = (reading.written or greedy)(oracle, prompt, dict(options or {})) if generate else None
        return Expected(
            inputs=given,
            logits=None if reading.logits is None else reading.logits(outputs),
            features=features,
            prompt=prompt,
            generated=ids,
            alone=tuple(alone(settings, given)) if alone is not None else (),
            options=options or {},
        )

    return Case(name=name, make=make, needs="transformers")


def filled(oracle: nn.Module) -> nn.Module:
    """Every parameter and stored buffer random (randomise.py)."""
    randomise.fill(oracle)
    return oracle


def greedy(oracle: Any, prompt: Tensors, options: dict[str, Any]) -> Tensor:
    """Ids of 16 greedy steps; it never ends early, so that all steps are compared."""
    for part in oracle.modules():  # some systems generate with the settings of an inner model
        if getattr(part, "generation_config", None) is not None:
            part.generation_config.eos_token_id = None
    return oracle.generate(**prompt, max_new_tokens=STEPS, do_sample=False, pad_token_id=0, **options)


def hugging_size(variant: str, model: str, config: Callable[[Library], Any]) -> Size:
    """A published size by the library: built on the meta device, names as it writes them to disk."""

    @cache
    def built() -> Any:
        with quiet() as transformers, torch.device("meta"):
            return getattr(transformers, model)(config(transformers))

    def shapes() -> Shapes:
        return {name: tuple(x.shape) for name, x in names_on_disk(built()).items()}

    return Size(
        variant=variant,
        shapes=shapes,
        source=f"transformers {model} on the meta device, names as it saves them",
        parameters=lambda: sum(p.numel() for p in built().parameters()),
        needs="transformers",
    )


def names_on_disk(model: Any) -> dict[str, Tensor]:
    """The state dict under the names that `save_pretrained` writes, tied tensors once."""
    state = model.state_dict()
    first: dict[int, str] = {}
    for name, x in model.state_dict(keep_vars=True).items():
        first.setdefault(id(x), name)
    state = {name: x for name, x in state.items() if name in set(first.values())}
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, state)


@contextlib.contextmanager
def quiet() -> Iterator[Library]:
    """The transformers module with its progress bars and warnings off."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):
        yield transformers
