"""Which tokens of many modalities are read and which are written: random budgets and spans (4M, arXiv 2312.06647).

    a mixture of Dirichlet distributions -> how many tokens of each modality are given, and how many of the rest asked
    grid: so many places at random;  sequence: spans become [S_1], [S_2] ... and are asked for behind their sign
Traps: a share of 0 stays 0; a grid gives a token or asks for it, never both, while a sequence has room for both sides;
a sequence keeps each token with a probability of its own, lowered until what is left fits; its last sign says that
nothing more comes; chunks (a box, a pose, a fact) are hidden whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.errors import ConfigError
from polymodal.generation.masked_modalities import SpanIds
from polymodal.models.masked_modalities import MaskedModalities
from polymodal.train.objectives import Loss, ModelLosses

Keep = Literal["random", "all", "binary"]
Table = Mapping[str, tuple[float, ...]]
SMALLEST, DECAY, TRIES = 1e-9, 0.9, 100


@dataclass(frozen=True, kw_only=True)
class MaskedModalityModeling:
    """Ids that are hidden, of each modality its mean, all modalities alike.

    inputs, targets: concentration by modality, one number for each part of the mixture.  weights: of its parts, alike
    where none are given.  keep: of a sequence in each part, whether words are kept at random, all, or all or none.
    given, asked: fewest and most tokens of a sample.
    """

    name: ClassVar[str] = "masked_modality_modeling"
    inputs: Table
    targets: Table
    weights: tuple[float, ...] = ()
    keep: Mapping[str, tuple[Keep, ...]] = field(default_factory=dict)
    given: tuple[int, int] = (128, 128)
    asked: tuple[int, int] = (128, 128)

    def __post_init__(self) -> None:
        if len({len(each) for each in (*self.inputs.values(), *self.targets.values(), *self.keep.values())}) != 1:
            raise ConfigError("masked modalities: inputs, targets and keep need a number for each part of the mixture")

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, MaskedModalities):
            raise ConfigError("masked modalities: the model must read and write modalities by name")
        return ModelLosses({"return_loss": True})

    def masking(
        self, model: MaskedModalities, ids: SpanIds, longest: Mapping[str, int] | None = None
    ) -> ModalityMasking:
        """How samples of a model are masked.  longest: tokens of a sequence, where they are more than it has places."""
        config = model.config
        names = [name for name in (*config.inputs, *config.outputs) if name in self.inputs or name in self.targets]
        kinds = {name: model.modality(name) for name in dict.fromkeys(names)}
        most = {name: each.longest if each.is_sequence else each.places for name, each in kinds.items()}
        return ModalityMasking(objective=self, modalities=kinds, ids=ids, longest={**most, **(longest or {})})


@dataclass(frozen=True, kw_only=True)
class ModalityMasking:
    """A sample of ids, pixels or vectors by modality -> `<name>.tensor`, `.input_mask`, `.target_mask` without rows.

    A sequence is given as ids, or as chunks of ids which are hidden whole; its end is added here.
    """

    objective: MaskedModalityModeling
    modalities: Mapping[str, ModalityConfig]
    ids: SpanIds
    longest: Mapping[str, int]

    def __call__(self, sample: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        names = [name for name in self.modalities if name in sample]
        weights = np.array(self.objective.weights or [1.0] * len(next(iter(self.objective.inputs.values()))))
        part = int(random.choice(len(weights), p=weights / weights.sum()))
        given = self._budget(names, part, "inputs", random, {})
        asked = self._budget(names, part, "targets", random, given)
        found: dict[str, Tensor] = {}
        for name in names:
            if self.modalities[name].is_sequence:
                keeps = self.objective.keep.get(name)
                keep: Keep = "random" if keeps is None else keeps[part]
                masked = self._sequence(name, sample[name], (given[name], asked[name]), keep, random)
            else:
                masked = self._grid(name, sample[name], (given[name], asked[name]), random)
            found |= {f"{name}.{what}": value for what, value in masked.items()}
        return found

    def blank(self, name: str) -> dict[str, Tensor]:
        """A modality of which a sample knows nothing: nothing is given or asked for."""
        config = self.modalities[name]
        most = self.longest[name]
        shapes = {
            "pixels": (config.channels, *(config.patch * side for side in config.grid)),
            "vectors": (most, config.channels),
            "grid": (config.places,),
            "sequence": (2 * (most + 1),),
        }
        shape = shapes[config.kind]
        places = config.places if config.kind == "pixels" else shape[0]
        nothing = torch.ones(places, dtype=torch.bool)
        empty = torch.zeros(shape, dtype=torch.long if config.writes else torch.float32)
        return {f"{name}.tensor": empty, f"{name}.input_mask": nothing, f"{name}.target_mask": nothing}

    def batch(self, samples: Sequence[Mapping[str, Any]], generator: torch.Generator) -> dict[str, Any]:
        """Samples of the same modalities as one batch, with how many tokens are read and written at most."""
        masked = [self(sample, generator) for sample in samples]
        tensors = {name: torch.stack([each[name] for each in masked]) for name in masked[0]}
        return {**tensors, "num_encoder_tokens": self.objective.given[1], "num_decoder_tokens": self.objective.asked[1]}

    def _budget(
        self, names: Sequence[str], part: int, side: str, random: np.random.Generator, taken: Mapping[str, int]
    ) -> dict[str, int]:
        """Tokens of each modality.  taken: those of a grid that are given, which cannot be asked for."""
        table: Table = getattr(self.objective, side)
        low, high = self.objective.given if side == "inputs" else self.objective.asked
        count = int(random.integers(low, high + 1))
        parts = len(next(iter(self.objective.inputs.values())))
        alphas = np.maximum([table.get(name, (0.0,) * parts)[part] for name in names], SMALLEST)
        share = np.floor(random.dirichlet(alphas) * count).astype(int)
        rest = count - int(share.sum())
        share += np.bincount(random.dirichlet(alphas, rest).argmax(1), minlength=len(names)) if rest else 0
        most = [self.longest[name] - (0 if self.modalities[name].is_sequence else taken.get(name, 0)) for name in names]
        return {name: int(min(own, limit)) for name, own, limit in zip(names, share, most, strict=True)}

    def _grid(
        self, name: str, values: Tensor, budget: tuple[int, int], random: np.random.Generator
    ) -> dict[str, Tensor]:
        count = self.modalities[name].places
        order = torch.from_numpy(random.permutation(count))
        hidden, silent = torch.ones(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
        hidden[order[: budget[0]]] = False
        silent[order[budget[0] : budget[0] + budget[1]]] = False
        values = values.flatten() if self.modalities[name].writes else values
        return {"tensor": values, "input_mask": hidden, "target_mask": silent}

    def _sequence(
        self, name: str, values: Any, budget: tuple[int, int], keep: Keep, random: np.random.Generator
    ) -> dict[str, Tensor]:
        if self.modalities[name].kind == "vectors":
            return self._vectors(name, values, budget[0], keep, random)
        most = self.longest[name]
        chunks = _chunks(values, self.ids.end, most)
        share = {"random": random.random(), "all": 1.0, "binary": float(random.integers(2))}[keep] if budget[0] else 0.0
        given, asked = self._spans(chunks, share, random)
        while budget[0] and len(given) > budget[0]:
            share *= DECAY
            given, asked = self._spans(chunks, share, random)
        given = given if budget[0] else []
        asked = self._within(asked, budget[1], random)
        room = 2 * (most + 1)
        ids = torch.full((room,), self.ids.pad)
        hidden, silent = torch.ones(room, dtype=torch.bool), torch.ones(room, dtype=torch.bool)
        ids[: len(given)], hidden[: len(given)] = torch.tensor(given, dtype=torch.long), False
        ids[budget[0] : budget[0] + len(asked)] = torch.tensor(asked, dtype=torch.long)
        silent[budget[0] : budget[0] + len(asked)] = False
        return {"tensor": ids, "input_mask": hidden, "target_mask": silent}

    def _spans(
        self, chunks: Sequence[Sequence[int]], share: float, random: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """What is given, with signs for what is hidden; what is asked for behind each sign, and one sign more."""
        given: list[int] = []
        asked: list[int] = []
        number, before = 0, False
        for chunk, drawn in zip(chunks, random.random(len(chunks)), strict=True):
            hide = drawn > share or not share
            if hide and not before:
                number += 1
                given.append(self.ids.sign(number))
                asked.append(self.ids.sign(number))
            (asked if hide else given).extend(chunk)
            before = hide
        return given, [*asked, self.ids.sign(number + 1)]

    def _within(self, asked: list[int], most: int, random: np.random.Generator) -> list[int]:
        """Spans that are asked for within a budget: from a sign drawn at random, or the first whose rest fits."""
        if len(asked) <= most:
            return asked
        signs = [place for place, token in enumerate(asked) if token in self.ids.spans]
        start = signs[int(random.integers(max(1, len(signs) - 1)))]
        if len(asked) - start < most:
            start = next(place for place in signs if len(asked) - place <= most)
        return asked[start : start + most]

    def _vectors(
        self, name: str, values: Tensor, budget: int, keep: Keep, random: np.random.Generator
    ) -> dict[str, Tensor]:
        """Vectors are given alone; a span that is hidden is one vector of zeros."""
        most = self.longest[name]
        chunks = [[place] for place in range(min(len(values), most))]
        share = {"random": random.random(), "all": 1.0, "binary": float(random.integers(2))}[keep]
        kept: list[int] = []
        while budget:
            drawn = random.random(len(chunks))
            places = [place if drawn[place] <= share and share else -1 for place in range(len(chunks))]
            kept = [place for i, place in enumerate(places) if place >= 0 or i == 0 or places[i - 1] >= 0]
            if len(kept) <= budget:
                break
            share *= DECAY
        found = torch.zeros(most, values.shape[1])
        for at, place in enumerate(kept):
            found[at] = values[place] if place >= 0 else 0.0
        hidden = torch.arange(most) >= len(kept)
        return {"tensor": found, "input_mask": hidden, "target_mask": torch.ones(most, dtype=torch.bool)}


def _chunks(values: Any, end: int, most: int) -> list[list[int]]:
    """Ids as chunks of one, or chunks as they are, and the end; as many as fit."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if not values or not isinstance(values[0], list | tuple):
        return [[token] for token in [*values, end][:most]]
    found, length = [], 0
    for chunk in [*map(list, values), [end]]:
        length += len(chunk)
        if length > most:
            break
        found.append(chunk)
    return found
