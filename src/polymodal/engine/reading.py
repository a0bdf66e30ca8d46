"""Prompts on their way in: what is known of each, and several short ones in one forward.

    jobs -> the longest known beginning of each -> one cache, all rows end in one column -> Prefill of what follows

          | known  | .......... |      Rows are aligned as in `rows.py`.  All are computed from one column on: a row of
    |      known   | .......... |      which more is known gets some of it computed again, and a short one computes
          |        | .......... |      padding; what is wasted so stays below what is computed.

Prompts that begin alike beyond what is known are not read together: the second one waits, and finds it known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch

from polymodal.data.processor import Encoded, Processor
from polymodal.engine.batch import Row
from polymodal.engine.prefix_cache import PrefixCache
from polymodal.engine.request import Request
from polymodal.generation.decode_state import Prefill, prefill_batch
from polymodal.generation.feature_cache import FeatureCache, Measure
from polymodal.generation.prefill import collate_left, prefill_after
from polymodal.generation.prefix import common_prefix, items_of, outside_items
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.protocols import CountsNextPositions

ALIKE = 16  # tokens that two prompts may have in common, beyond what is known, and yet be read together


@dataclass(kw_only=True, eq=False)
class Job:
    """A request on its way.

    left: answers that have not ended.  limit: longest answer.  until: its deadline.  alone: it is not read with others.
    stale: the weights changed while it was answered, so that what it computed serves nobody else.
    """

    id: int
    request: Request
    left: int
    limit: int = 0
    until: float | None = None
    rows: list[Row] = field(default_factory=list)
    cached_tokens: int = 0
    alone: bool = False
    stale: bool = False
    ended: bool = False

    @property
    def encoded(self) -> Encoded:
        return self.request.encoded

    @property
    def width(self) -> int:
        """Rows that it will take."""
        return max(self.request.n, self.request.options.beams)

    @property
    def length(self) -> int:
        """Tokens that one of its rows may come to."""
        return len(self.encoded) + self.limit


@dataclass(kw_only=True, eq=False)
class Reading:
    """Jobs whose prompts are read in one batch, row by row."""

    jobs: list[Job]
    prefill: Prefill

    def first(self, index: int) -> int:
        """The column in which the prompt of a job begins."""
        return max(len(job.encoded) for job in self.jobs) - len(self.jobs[index].encoded)


class Reader:
    """Reads prompts for `model`.  shares: rows of many requests decode in one batch."""

    def __init__(
        self, model: MultimodalLM, processor: Processor, prefixes: PrefixCache, features: FeatureCache, shares: bool
    ) -> None:
        self._model, self._processor = model, processor
        self._prefixes, self._features = prefixes, features
        self._shares = shares
        # Where padding counts as text, or moves positions while a context is made of the whole batch, none may be.
        by_rule = model.prepare_inputs is not None
        self._pads = not (
            isinstance(model.prepare_inputs, CountsNextPositions) or (model.context is not None and by_rule)
        )

    def fit(self, jobs: Sequence[Job], job: Job, budget: int) -> bool:
        """Whether a job may be read together with these, within so many tokens, padding included."""
        together = [*jobs, job]
        if not self._pads or any(each.alone or not self._plain(each) for each in together):
            return False
        if len({each.request.tenant for each in together}) > 1:
            return False  # they would share their media
        known = self._prefixes.find(job.encoded, job.request.tenant).length
        new = [len(each.encoded) - self._prefixes.find(each.encoded, each.request.tenant).length for each in together]
        tokens = len(new) * max(new)
        if tokens > min(budget, 2 * sum(new)):
            return False
        return all(
            common_prefix(job.encoded, each.encoded.input_ids, items_of(each.encoded)) <= known + ALIKE for each in jobs
        )

    def _plain(self, job: Job) -> bool:
        return job.request.options.beams == 1 and (self._shares or job.request.n == 1)

    def begin(self, jobs: Sequence[Job]) -> Reading:
        """Prompts behind what is known of them."""
        rows = [job.encoded for job in jobs]
        tenant = jobs[0].request.tenant
        if self._model.is_encoder_decoder:
            return Reading(jobs=list(jobs), prefill=self._read_whole(jobs))
        known = [self._prefixes.find(row, tenant) for row in rows]
        held = _aligned(rows, [each.length for each in known])
        longest = max(map(len, rows))
        # Rows that join others need space for their prompts alone.
        capacity = longest + (0 if self._shares else max(job.limit for job in jobs))
        cache = self._model.backbone.new_cache(len(rows), capacity)
        for index, (job, row, each, length) in enumerate(zip(jobs, rows, known, held, strict=True)):
            each.copy_into(cache, index, longest - len(row), length)
            job.cached_tokens = length
        cache.advance(longest - max(len(row) - length for row, length in zip(rows, held, strict=True)))
        if len(rows) == 1 and (sources := known[0].sources) is not None:
            cache.set_sources(sources)
        prefill = prefill_after(self._model, self._processor, rows, cache, self._features, _measure(jobs), tenant)
        return Reading(jobs=list(jobs), prefill=prefill)

    def _read_whole(self, jobs: Sequence[Job]) -> Prefill:
        """An encoder-decoder's: the conversations are its encoder's."""
        rows = [job.encoded for job in jobs]
        spans = [span for row in rows for span in row.media_spans]
        tenant = jobs[0].request.tenant
        features = self._features.features(self._model, self._processor, spans, _measure(jobs), tenant)
        batch = collate_left(self._processor, rows)
        state = prefill_batch(self._model, batch, [job.limit for job in jobs], features=features)
        return Prefill(state=state, embeds=torch.empty(len(rows), 0, 0), position_ids=state.position)


def _aligned(rows: Sequence[Encoded], known: Sequence[int]) -> list[int]:
    """How much of what is known of each row is used, so that all are computed from one column on."""
    held = list(known)
    while True:
        new = max(len(row) - length for row, length in zip(rows, held, strict=True))
        cut = [
            outside_items(max(0, min(length, len(row) - new)), row.media_spans)
            for row, length in zip(rows, held, strict=True)
        ]
        if cut == held:
            return held
        held = cut


def _measure(jobs: Sequence[Job]) -> Measure:
    """Work for all of them counts for whoever asked for any of them."""
    measures = list(dict.fromkeys(job.request.measure for job in jobs))
    if len(measures) == 1:
        return measures[0]

    @contextmanager
    def measure(phase: str) -> Iterator[None]:
        with ExitStack() as stack:
            for each in measures:
                stack.enter_context(each(phase))
            yield

    return measure
