"""Which sample stands where in a run: several data sets, shuffled together by weight, without end.

    Mixture([(talks, 3.0), (captions, 1.0)], seed=0).at(position) -> (data set, sample)

Position is all the state there is: a run that goes on at position n sees what it would have seen, whatever the number
of processes.  An epoch has as many positions as all data sets have samples together.  Without weights each sample comes
once in it; with weights a data set has its share of the positions, and goes round its own samples in new orders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polymodal.data.datasets.sample import Dataset
from polymodal.errors import ConfigError


class Mixture:
    """datasets, each with a weight, or None for all: as many positions as it has samples.  shuffle: else in order."""

    def __init__(
        self, datasets: Sequence[Dataset], weights: Sequence[float] | None = None, seed: int = 0, shuffle: bool = True
    ) -> None:
        if not datasets:
            raise ConfigError("a mixture needs a data set")
        if weights is not None and (len(weights) != len(datasets) or min(weights) <= 0):
            raise ConfigError(f"weights: {len(weights)} for {len(datasets)} data sets; expected one above 0 for each")
        self.datasets, self.seed, self.shuffle = tuple(datasets), seed, shuffle
        self.weights = None if weights is None else tuple(weights)
        sizes = np.array([len(each) for each in datasets], dtype=np.int64)
        self.epoch_size = int(sizes.sum())
        self.sizes = sizes
        self.counts = sizes if weights is None else _shared_out(self.epoch_size, weights)
        self._epoch: tuple[int, np.ndarray, np.ndarray] = (-1, sizes, sizes)

    def at(self, position: int) -> tuple[int, int]:
        """(number of the data set, number of its sample) at a position, counted from 0."""
        epoch, place = divmod(position, self.epoch_size)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, *self._order(epoch))
        return int(self._epoch[1][place]), int(self._epoch[2][place])

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each position in an epoch: data set, sample."""
        sources = np.repeat(np.arange(len(self.sizes)), self.counts)
        samples = np.concatenate(
            [self._run(source, epoch * int(count), int(count)) for source, count in enumerate(self.counts)]
        )
        if not self.shuffle:
            return sources, samples
        order = np.random.default_rng((self.seed, epoch)).permutation(self.epoch_size)
        return sources[order], samples[order]

    def _run(self, source: int, start: int, count: int) -> np.ndarray:
        """Samples `start` to `start + count` of a data set that goes round, in a new order each time."""
        size, pieces = int(self.sizes[source]), []
        for round_number in range(start // size, (start + count + size - 1) // size):
            order = np.arange(size)
            if self.shuffle:
                order = np.random.default_rng((self.seed, source + 1, round_number)).permutation(size)
            first = max(start - round_number * size, 0)
            pieces.append(order[first : min(start + count - round_number * size, size)])
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


def _shared_out(total: int, weights: Sequence[float]) -> np.ndarray:
    """Whole numbers that add up to `total`, in proportion to the weights (largest remainders)."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    for index in np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]:
        counts[index] += 1
    return counts
