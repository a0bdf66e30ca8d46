"""Classifier-free guidance for tokens (arXiv 2207.12598): one text, steered by the same model under several prompts.

    logits = sum over branches of weight * log_softmax(logits of the branch),   weights add up to 1

Each branch is a prompt of its own with its own cache; whatever is chosen is fed to all of them.  A prompt and its
negative with weights (s, 1 - s) give Emu3's rule; full, picture-only and empty prompt with (t, p - t, 1 - p) that of
the official Chameleon.
Trap: rows of one branch answer the rows of another, so all batches have the same number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generation.decode_state import CHUNK, DecodeState, prefill_batch
from polymodal.generation.generate import answer
from polymodal.generation.output import UNCONSTRAINED, DecodingConstraints, Piece, per_row
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM


class Guided(DecodeState):
    """Branches that run side by side; looks like the first of them, with logits of all."""

    def __init__(self, branches: Sequence[DecodeState], weights: Sequence[float]) -> None:
        """Raises ConfigError when numbers of branches, weights or rows do not fit."""
        if len(branches) != len(weights) or len({branch.rows for branch in branches}) != 1:
            rows = [branch.rows for branch in branches]
            raise ConfigError(f"guidance: {len(weights)} weights for {len(branches)} branches with {rows} rows")
        self.branches, self.weights = tuple(branches), tuple(weights)
        first = branches[0]
        super().__init__(model=first.model, cache=first.cache, prompts=first.prompts, position=first.position,
                         mask=first.mask, context=first.context, logits=self._mixed())  # fmt: skip

    def step(self, ids: Tensor) -> None:
        """One new token for every row of every branch."""
        for branch in self.branches:
            branch.step(ids)
        self.logits = self._mixed()

    def _mixed(self) -> Tensor:
        parts = zip(self.branches, self.weights, strict=True)
        return torch.stack([weight * branch.logits.log_softmax(-1) for branch, weight in parts]).sum(0)


@torch.inference_mode()
def guided(
    model: MultimodalLM,
    batches: Sequence[Mapping[str, Any]],
    weights: Sequence[float],
    options: SamplingOptions | Sequence[SamplingOptions],
    constraints: DecodingConstraints = UNCONSTRAINED,
    chunk: int = CHUNK,
) -> Iterator[Piece]:
    """Token by token, steered by several batches; the first one is the prompt that is answered."""
    rows = per_row(options, len(batches[0]["input_ids"]))
    max_tokens = [option.max_tokens for option in rows]
    branches = [prefill_batch(model, batch, max_tokens, chunk, constraints.allow_past_context) for batch in batches]
    state = Guided(branches, weights)
    yield from answer(state, rows, constraints)
