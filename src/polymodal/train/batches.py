"""Step -> the batches of that step: samples of a mixture, through a collator, for one rank.

    step s takes the positions  s * batch ... (s + 1) * batch  of the mixture; rank r of R every R-th of them
    samples -> collator.item -> arranged (sorted by length, packed) -> micro batches of at most `micro_batch` rows

The weight of a micro batch is its share of the step's learned tokens: gradients are those of one large batch, however
it was cut.  Nothing is kept from step to step, so that a run goes on at any step, with any number of workers, as if it
had never stopped; look-ahead for packing is the step itself.
Traps: a damaged sample leaves its place empty, so that later steps see the same samples; what compares the samples of a
step with each other is not cut, and every rank takes all of it: exact, and no faster than one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from polymodal.data.datasets.mixture import Mixture
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.train.collator import Collator, MicroBatch


@dataclass(frozen=True, kw_only=True)
class StepData:
    """What one optimiser step takes.  names: of its samples.  skipped: "sample: why" of each damaged one.

    blank: what this process passes through the model while others still have rows; None for one process.
    """

    micro_batches: tuple[MicroBatch, ...]
    samples: int = 0
    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    blank: MicroBatch | None = None

    @property
    def targets(self) -> int:
        """Learned tokens of the step."""
        return sum(each.targets for each in self.micro_batches)

    @property
    def counts(self) -> Counter[str]:
        """Of losses that are means over something else than tokens, by name."""
        return sum((Counter(each.counts) for each in self.micro_batches), Counter())

    @property
    def tokens(self) -> int:
        """Tokens of the step, without padding."""
        return sum(each.tokens for each in self.micro_batches)


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """batch: samples a step, over all ranks.  micro_batch: rows a forward pass at most; None: all.

    by_length: instead of all, passes of rows of like length where that costs less; for losses that are means over
    tokens, and in one process, since several must make as many passes each.  positions: of the mixture that are read at
    all; None: it goes on for ever.  rank, ranks: which of how many processes this one is.
    """

    batch: int
    by_length: bool = False
    micro_batch: int | None = None
    positions: int | None = None
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch < self.ranks:
            raise ConfigError(f"a batch of {self.batch} samples cannot be shared by {self.ranks} processes")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError(f"micro batch: expected 1 row or more, found {self.micro_batch}")


class Steps(Protocol):
    """`steps[number]` -> StepData; a map-style data set for a DataLoader whose workers each make whole steps."""

    def __getitem__(self, step: int) -> StepData: ...

    def once(self) -> Iterator[StepData]:
        """Every sample once, in order, all of them in this process: for evaluation."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepBatches:
    """The steps of one mixture."""

    collator: Collator
    mixture: Mixture
    options: BatchOptions

    def __post_init__(self) -> None:
        if self.collator.compares and self.options.micro_batch is not None:
            raise ConfigError("micro batch: this stage compares the samples of a batch with each other; leave it out")

    def __getitem__(self, step: int) -> StepData:
        options, collator = self.options, self.collator
        rank, ranks = (0, 1) if collator.compares else (options.rank, options.ranks)
        items: list[Any] = []
        names: list[str] = []
        skipped: list[str] = []
        first = step * options.batch
        end = first + options.batch if options.positions is None else min(first + options.batch, options.positions)
        for position in range(first + rank, end, ranks):
            source, index = self.mixture.at(position)
            try:
                name, item = self.item(source, index, position)
                items.append(item)
                names.append(name)
            except (PromptError, MediaError) as problem:
                skipped.append(str(problem))
        items = collator.arranged(items)
        size = options.micro_batch or max(1, len(items))
        cut: list[Sequence[Any]] = [items[start : start + size] for start in range(0, len(items), size)]
        if options.by_length and collator.has_lengths and options.micro_batch is None and options.ranks == 1:
            cut = cut_by_length(sorted(items, key=len))
        generator = generator_at(self.mixture.seed, step, rank)
        again = collator.compares and options.rank > 0  # what another process counts
        return StepData(
            micro_batches=tuple(collator.batch(each, generator) for each in cut),
            samples=0 if again else len(names),
            names=tuple(names),
            skipped=() if again else tuple(skipped),
            blank=collator.blank() if options.ranks > 1 else None,
        )

    def item(self, source: int, index: int, position: int = 0) -> tuple[str, Any]:
        """One sample: its name, and what the collator keeps of it.  Raises PromptError or MediaError for one that
        cannot be learned from."""
        sample = self.mixture.datasets[source].sample(index)
        try:
            return sample.name, self.collator.drawn(sample, generator_at(self.mixture.seed, position, 0))
        except (PromptError, MediaError) as problem:
            raise type(problem)(f"{sample.name}: {problem}") from problem

    def once(self) -> Iterator[StepData]:
        """See Steps."""
        size = self.mixture.epoch_size
        ordered = Mixture(self.mixture.datasets, shuffle=False)
        options = replace(self.options, positions=size, rank=0, ranks=1)
        whole = replace(self, mixture=ordered, options=options)
        return map(whole.__getitem__, range(math.ceil(size / options.batch)))


@dataclass(frozen=True, kw_only=True)
class InTurn:
    """Steps of several kinds one after the other: step s is of the kind s % n (FLAVA's pairs, pictures and texts)."""

    kinds: Sequence[StepBatches]

    def __getitem__(self, step: int) -> StepData:
        return self.kinds[step % len(self.kinds)][step // len(self.kinds)]

    def once(self) -> Iterator[StepData]:
        """See Steps."""
        return chain.from_iterable(each.once() for each in self.kinds)


@dataclass(frozen=True, kw_only=True)
class OfEach:
    """Each step holds a batch of every source, by name: what `SumOfSources` weights and sums (Flamingo)."""

    sources: Mapping[str, StepBatches]

    def __getitem__(self, step: int) -> StepData:
        return self._joined({name: each[step] for name, each in self.sources.items()})

    def once(self) -> Iterator[StepData]:
        """See Steps."""
        return (self._joined({name: data}) for name, each in self.sources.items() for data in each.once())

    def _joined(self, data: Mapping[str, StepData]) -> StepData:
        if any(len(each.micro_batches) > 1 for each in data.values()):
            raise ConfigError("micro batch: a step of this stage sums its sources; leave it out")
        found = {name: each.micro_batches[0] for name, each in data.items() if each.micro_batches}
        whole = MicroBatch(
            batch={name: each.batch for name, each in found.items()},
            targets=1,
            tokens=sum(each.tokens for each in found.values()),
        )
        return StepData(
            micro_batches=(whole,) if found else (),
            samples=sum(each.samples for each in data.values()),
            names=tuple(name for each in data.values() for name in each.names),
            skipped=tuple(why for each in data.values() for why in each.skipped),
        )


PASS = 128
"""What a pass costs beside its tokens, in tokens: gradients are added to those of the passes before."""
MOST_ROWS = 256
"""Of a pass that is cut by length."""


def cut_by_length(rows: Sequence[Any]) -> list[Sequence[Any]]:
    """Rows, shortest first, in the groups that cost least: each is padded to its longest row, and is a pass."""
    best = [(0, 0)]  # of the first n rows: the cost, and where their last group starts
    for end in range(1, len(rows) + 1):
        starts = range(max(0, end - MOST_ROWS), end)
        best.append(min((best[start][0] + (end - start) * len(rows[end - 1]) + PASS, start) for start in starts))
    groups, end = [], len(rows)
    while end:
        start = best[end][1]
        groups.append(rows[start:end])
        end = start
    return groups[::-1]


def generator_at(seed: int, step: int, rank: int) -> torch.Generator:
    """The random numbers of a step's batches (masks), the same whoever makes them and whenever."""
    state = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


class StepLoader:
    """`loader(step)` -> StepData, in order, made ahead by `workers` processes; 0: in this one, when asked."""

    def __init__(self, batches: Steps, end: int, workers: int = 0) -> None:
        self.batches, self.end, self.workers = batches, end, workers
        self._next = -1
        self._steps: Iterator[StepData] = iter(())

    def __call__(self, step: int) -> StepData:
        if not self.workers:
            return self.batches[step]
        if step != self._next:
            self._steps = self._from(step)
        self._next = step + 1
        return next(self._steps)

    def _from(self, step: int) -> Iterator[StepData]:
        loader: Any = DataLoader(
            self.batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(step, self.end),
            num_workers=self.workers,
            collate_fn=as_it_is,  # type: ignore[arg-type]
            generator=torch.Generator(),  # else starting the workers would draw from the random numbers of training
        )
        return iter(loader)


def as_it_is(data: StepData) -> StepData:
    """A step is a batch already."""
    return data
