"""A data set for each source of a stage whose losses are weighted and summed (Flamingo, OpenFlamingo)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.sample import Sample
from polymodal.errors import ConfigError
from polymodal.train.batches import BatchOptions, OfEach, StepBatches
from polymodal.train.collator import Collator, MicroBatch


@dataclass(frozen=True, kw_only=True)
class EachSource(Collator):
    """inner: what makes the batch of one source.  sources: their names, in the order of the data sets."""

    inner: Collator
    sources: tuple[str, ...]

    @property
    def expects(self) -> str:  # type: ignore[override]
        """What each source holds."""
        return self.inner.expects

    def item(self, sample: Sample) -> Any:
        """As the inner one."""
        return self.inner.item(sample)

    def arranged(self, items: list[Any]) -> list[Any]:
        """As the inner one."""
        return self.inner.arranged(items)

    def batch(self, items: Sequence[Any], generator: torch.Generator) -> MicroBatch:
        """As the inner one."""
        return self.inner.batch(items, generator)

    def steps(self, mixture: Mixture, options: BatchOptions) -> OfEach:
        """Each step holds a batch of every source: its share of the samples, by the mixture's weights.

        Raises ConfigError for other numbers of data sets than sources, and for a batch that is too small.
        """
        datasets = mixture.datasets
        if len(datasets) != len(self.sources):
            raise ConfigError(
                f"this stage sums the losses of {len(self.sources)} sources ({', '.join(self.sources)}): give a --data "
                f"for each, in this order, or others with --set objective.weights; found {len(datasets)}"
            )
        if options.micro_batch is not None:
            raise ConfigError("micro batch: a step of this stage sums its sources; leave it out")
        weights = mixture.weights or (1.0,) * len(datasets)
        sizes = [max(1, round(options.batch * weight / sum(weights))) for weight in weights]
        return OfEach(
            sources={
                name: StepBatches(
                    collator=self.inner,
                    mixture=Mixture([each], seed=mixture.seed, shuffle=mixture.shuffle),
                    options=replace(options, batch=max(size, options.ranks)),
                )
                for name, each, size in zip(self.sources, datasets, sizes, strict=True)
            }
        )
