"""Step -> the batches of that step: samples of a mixture, through the processor, packed or padded, for one rank.

    step s takes the positions  s * batch ... (s + 1) * batch  of the mixture; rank r of R every R-th of them
    samples -> rows -> packed, or sorted by length -> micro batches of at most `micro_batch` rows, each with its weight

The weight of a micro batch is its share of the step's learned tokens: gradients are those of one large batch, however
it was cut.  Nothing is kept from step to step, so that a run goes on at any step, with any number of workers, as if it
had never stopped; look-ahead for packing is the step itself.
Traps: a damaged sample leaves its place empty, so that later steps see the same samples; a conversation that is too
long is cut at its end, but never inside media: it then counts as damaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.dummy_items import dummy_items
from polymodal.data.packing import pack
from polymodal.data.processor import Encoded, Processor
from polymodal.data.template import Special, Words, Written
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.nn.losses import IGNORE, shifted


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward pass takes.  targets: how many tokens of it are learned.  tokens: without padding."""

    batch: Mapping[str, Any]
    targets: int
    tokens: int


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
    def tokens(self) -> int:
        """Tokens of the step, without padding."""
        return sum(each.tokens for each in self.micro_batches)


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """batch: samples a step, over all ranks.  max_length: of a row, in tokens.  packing: several conversations a row.

    micro_batch: rows a forward pass at most; None: all.  by_length: instead of all, passes of rows of like length where
    that costs less; for losses that are means over tokens, and in one process, since several must make as many passes
    each.  positions: of the mixture that are read at all; None: it goes on for ever.  rank, ranks: which of how many
    processes this one is.
    """

    batch: int
    max_length: int | None = None
    packing: bool = False
    by_length: bool = False
    micro_batch: int | None = None
    positions: int | None = None
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch < self.ranks:
            raise ConfigError(f"a batch of {self.batch} samples cannot be shared by {self.ranks} processes")
        if self.packing and self.max_length is None:
            raise ConfigError("packing needs budget.max_length, the length of a packed row in tokens")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError(f"micro batch: expected 1 row or more, found {self.micro_batch}")


@dataclass(frozen=True, kw_only=True)
class StepBatches:
    """`batches[step]` -> StepData; a map-style data set for a DataLoader whose workers each make whole steps."""

    processor: Processor
    mixture: Mixture
    options: BatchOptions
    dummies: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, step: int) -> StepData:
        options = self.options
        rows: list[Encoded] = []
        names: list[str] = []
        skipped: list[str] = []
        first = step * options.batch
        end = first + options.batch if options.positions is None else min(first + options.batch, options.positions)
        for position in range(first + options.rank, end, options.ranks):
            source, index = self.mixture.at(position)
            try:
                name, row = self.row(source, index)
                rows.append(row)
                names.append(name)
            except (PromptError, MediaError) as problem:
                skipped.append(str(problem))
        if options.packing and options.max_length is not None:
            rows = pack(rows, options.max_length)
        else:
            rows.sort(key=len)  # rows of a length beside each other: less padding
        size = options.micro_batch or max(1, len(rows))
        cut: list[Sequence[Encoded]] = [rows[start : start + size] for start in range(0, len(rows), size)]
        if options.by_length and options.micro_batch is None and options.ranks == 1:
            cut = cut_by_length(sorted(rows, key=len))
        return StepData(
            micro_batches=tuple(map(self.micro_batch, cut)),
            samples=len(names),
            names=tuple(names),
            skipped=tuple(skipped),
            blank=self.blank() if options.ranks > 1 else None,
        )

    def row(self, source: int, index: int) -> tuple[str, Encoded]:
        """One sample: its name, and its ids.  Raises PromptError or MediaError for one that cannot be learned from."""
        sample = self.mixture.datasets[source].sample(index)
        try:
            if sample.messages:
                row = self.processor.encode(sample.messages)
            else:
                row = self.processor.encode_segments(text_segments(self.processor.tokenizer, sample.text))
            row = self.processor.fit(row, self.options.max_length, truncate=True)
            if not any(row.loss_mask[1:]):
                raise PromptError(f"has no token to learn within {self.options.max_length} tokens")
        except (PromptError, MediaError) as problem:
            raise type(problem)(f"{sample.name}: {problem}") from problem
        return sample.name, row

    def micro_batch(self, rows: Sequence[Encoded]) -> MicroBatch:
        """Rows as tensors."""
        batch = self.processor.collate(rows, padding="right", dummies=self.dummies)
        labels: Tensor = batch["labels"]
        return MicroBatch(
            batch=batch,
            targets=int((shifted(labels) != IGNORE).sum()),
            tokens=sum(map(len, rows)),
        )

    def blank(self) -> MicroBatch:
        """A row of which nothing is learned: what a rank passes through the model while others still have rows."""
        row = self.processor.encode_segments([Words(text="-")])
        return self.micro_batch([row])


PASS = 128
"""What a pass costs beside its tokens, in tokens: gradients are added to those of the passes before."""
MOST_ROWS = 256
"""Of a pass that is cut by length."""


def cut_by_length(rows: Sequence[Encoded]) -> list[Sequence[Encoded]]:
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


def text_segments(tokenizer: Tokenizer, text: str) -> list[Written]:
    """A text of which every token is learned: what the tokenizer puts before it, the text, the end token."""
    before, _ = tokenizer.special_tokens_around
    segments: list[Written] = [*(Special(name=name) for name in before), Words(text=text, loss_mask=True)]
    if tokenizer.eos_id is not None:
        segments.append(Special(name=tokenizer.token(tokenizer.eos_id), loss_mask=True))
    return segments


class StepLoader:
    """`loader(step)` -> StepData, in order, made ahead by `workers` processes; 0: in this one, when asked."""

    def __init__(self, batches: StepBatches, end: int, workers: int = 0) -> None:
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


def step_batches(processor: Processor, mixture: Mixture, options: BatchOptions) -> StepBatches:
    """With the blank items that ranks without media need, where there are several ranks."""
    dummies = dummy_items(processor) if options.ranks > 1 else {}
    return StepBatches(processor=processor, mixture=mixture, options=options, dummies=dummies)
