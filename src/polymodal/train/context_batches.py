"""Punchlines behind the sentences of their context -> the batch of C-MFN.

    {"features": {"text": "a.npy", "audio": ..., "vision": ..., "context_text": "b.npy", ...}, "label": 1}
    text [T, F]: of the punchline's words;  context_text [S, T, F]: of each sentence before it; likewise of the others

The first words of a sentence and the last sentences are read, and both are padded in front.  Of a model with a table of
words, text is their ids, [T] and [S, T].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.errors import PromptError
from polymodal.models.contextual_memory_fusion import CONTEXT, MODALITIES, ContextualMemoryFusionConfig
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted
from polymodal.train.labelled import number


@dataclass(frozen=True, kw_only=True)
class ContextBatches(Collator):
    """config: of the model, whose widths and lengths the samples must fit."""

    expects: ClassVar[str] = "features of a punchline and of the sentences before it, with a label of 0 or 1 each"

    config: ContextualMemoryFusionConfig

    def item(self, sample: Sample) -> dict[str, Tensor]:
        """Punchline and context, padded, and the label [1].  A sample without a context has sentences of zeros."""
        if not sample.features:
            raise WrongKind("has no features")
        label = number(sample.labels) if isinstance(sample.labels, str) else sample.labels
        if label not in (0, 1):
            raise WrongKind("has no label" if label is None else f"its label is {str(label)[:40]}; expected 0 or 1")
        made = {"labels": torch.tensor([float(label)])}
        for name in MODALITIES:
            if name not in sample.features:
                raise WrongKind(f"has no {name}; the model reads {', '.join(MODALITIES)}")
            made[name] = self.fitted(name, name, sample)
            if CONTEXT[name] in sample.features:
                made[CONTEXT[name]] = self.fitted(CONTEXT[name], name, sample)
            else:
                made[CONTEXT[name]] = made[name].new_zeros((self.config.sentences, *made[name].shape))
        counts = {name: len(sample.features[each].values) for name, each in CONTEXT.items() if each in sample.features}
        if len(set(counts.values())) > 1 or len(counts) not in (0, len(CONTEXT)):
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise PromptError(f"its contexts have unequal numbers of sentences: {said}")
        return made

    def fitted(self, given: str, name: str, sample: Sample) -> Tensor:
        """Cut and padded in front to the lengths that the model reads.  Raises PromptError for another shape."""
        config, ids = self.config, bool(name == "text" and self.config.words)
        x = torch.as_tensor(sample.features[given].values)
        x = x.long() if ids else x.float()
        width = () if ids else (config.features[name],)
        shape = ("sentences", "words") if given != name else ("words",)
        if x.dim() != len(shape) + len(width) or tuple(x.shape[len(shape) :]) != width or 0 in x.shape:
            raise PromptError(f"its {given} is {list(x.shape)}; expected [{', '.join(map(str, (*shape, *width)))}]")
        if not ids and not bool(x.isfinite().all()):
            raise PromptError(f"its {given} has values that are no numbers")
        x = x[-config.sentences :, : config.steps] if given != name else x[: config.steps]
        limits = (config.sentences, config.steps) if given != name else (config.steps,)
        pads = [0, 0] * len(width)
        for axis in reversed(range(len(limits))):
            pads += [limits[axis] - x.shape[axis], 0]
        return F.pad(x, pads)

    def batch(self, items: Sequence[dict[str, Tensor]], generator: torch.Generator) -> MicroBatch:
        """text, audio, vision [B, T, F], context_text, ... [B, S, T, F], labels [B, 1]."""
        batch: dict[str, Any] = {name: torch.stack([each[name] for each in items]) for name in items[0]}
        return counted(batch, len(items))
