"""Language models that hear and see through vectors of one bound space (ImageBind): PandaGPT and NExT-GPT.

    each sense -> its encoder [N, E] -> the one shared linear [N, 1, D] -> spliced at placeholders -> backbone
    SummedEmbeddingLM    all senses of a row are added up in ONE place (PandaGPT)
    SignalTokenLM        a place per item; signal tokens of the answer -> states + embeddings -> output projector

Traps: the linear has a bias, which the sum of two senses holds twice; a condition needs the states AT the signal tokens
of the full text, after the last norm; a signal that is not written out whole gives no condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import ConfigError, PromptError
from polymodal.generators.diffusion import SETTINGS, Pipeline, run_pipeline
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM


class ImageBindConnector(nn.Module):
    """The shared linear: vectors `[N, E] -> [N, 1, D]`."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_width, width)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.proj(vectors)[:, None]


class SummedEmbeddingLM(MultimodalLM):
    """`inputs` by sense; row i of every sense's tensor belongs to the i-th placeholder."""

    SLOT = "image"

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        placeholder: int,
        inputs: Mapping[str, ModalityInputs],
    ) -> None:
        places = dict.fromkeys(inputs, placeholder)
        super().__init__(encoders, connectors, backbone, places, inputs=inputs, positions_ignore_padding=True)
        self.placeholders = {self.SLOT: placeholder}

    def features(self, **batch: Any) -> dict[str, Any]:
        """The sum over the senses that are there, `[N, 1, D]`, as it enters the backbone.

        Rows that hear and rows that see need `item_counts`; else every sense has an item for every place.
        """
        if batch.get("segments") is not None:
            raise PromptError("segments: the senses of a whole row are added up; collate the rows unpacked")
        found = super().features(**batch)
        return {self.SLOT: self.summed(found, batch.get("item_counts"))} if found else {}

    def embed_inputs(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """As in MultimodalLM; features: the sum as one tensor, or lists of each sense's items (as chats keep them)."""
        found = self.features(**batch) if features is None else features
        given = {**batch, "item_counts": None, "item_tokens": None}
        if found:
            counts = None if isinstance(found.get(self.SLOT), Tensor) else batch.get("item_counts")
            return super().embed_inputs(given, {self.SLOT: self.summed(found, counts)})
        if bool((batch["input_ids"] == self.placeholders[self.SLOT]).any()):
            raise PromptError("this model answers about a picture, video, sound, heat, depth or motion; found none")
        return super().embed_inputs(given, {})

    def summed(self, found: Mapping[str, Any], counts: Mapping[str, Tensor] | None = None) -> Tensor:
        """`[N, 1, D]` by sense -> `[places, 1, D]`.  counts: items of each sense by row; a sense that is not named has
        one for every row.  Raises ConfigError when the numbers of items do not fit."""
        stacked = {name: torch.stack(list(each)) for name, each in found.items()}
        rows = {name: counts[name] for name in found if counts is not None and name in counts}
        if not rows:
            if len({len(each) for each in stacked.values()}) > 1:
                numbers = {name: len(each) for name, each in stacked.items()}
                raise ConfigError(f"senses of one place are added up and need equal numbers of items; found {numbers}")
            return torch.stack(list(stacked.values())).sum(0)
        first, everywhere = next(iter(stacked.values())), torch.arange(len(next(iter(rows.values()))))
        total = first.new_zeros(len(everywhere), *first.shape[1:])
        seen = torch.zeros(len(everywhere), dtype=torch.bool, device=total.device)
        for name, each in stacked.items():
            where = everywhere.repeat_interleave(rows[name].cpu()) if name in rows else everywhere
            if len(where) != len(each):
                raise ConfigError(f"the rows announce {len(where)} items of {name}, but there are {len(each)}")
            total = total.index_add(0, where.to(total.device), each)
            seen[where.to(total.device)] = True
        return total[seen]


class SignalTokenLM(MultimodalLM):
    """projectors by modality; signals: modality -> the ids that ask for it, in order."""

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        placeholders: Mapping[str, int],
        inputs: Mapping[str, ModalityInputs],
        projectors: Mapping[str, nn.Module],
        signals: Mapping[str, Sequence[int]],
    ) -> None:
        super().__init__(encoders, connectors, backbone, placeholders, inputs=inputs, positions_ignore_padding=True)
        if set(projectors) != set(signals):
            raise ConfigError(f"projectors {sorted(projectors)} and signals {sorted(signals)} must agree")
        self.projectors = nn.ModuleDict(projectors)
        self.signals = {name: tuple(ids) for name, ids in signals.items()}

    def conditions(self, **batch: Any) -> dict[str, Tensor]:
        """By modality, `[k, Q, E]` for the k signals written in the ids of a batch, row by row; absent where k is 0.

        The batch is that of `logits`: prompt and answer together, as `generate` returns them.
        """
        return self.conditions_at(self(return_logits=False, **batch).hidden, batch["input_ids"])

    def conditions_at(self, hidden: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """`conditions` from the hidden states [B, T, D] of a full pass over ids [B, T]."""
        found = {}
        for name, signal in self.signals.items():
            wanted = torch.tensor(signal, device=ids.device)
            if ids.shape[1] < len(signal):
                continue
            rows, starts = (ids.unfold(1, len(signal), 1) == wanted).all(-1).nonzero(as_tuple=True)
            if not len(rows):
                continue
            places = starts[:, None] + torch.arange(len(signal), device=ids.device)
            embedded = self.backbone.embed(wanted.expand(len(rows), -1))
            found[name] = self.projectors[name](hidden[rows[:, None], places], embedded)
        return found

    @torch.inference_mode()
    def render(
        self,
        pipelines: Mapping[str, Pipeline],
        changes: Mapping[str, Any] | None = None,
        **batch: Any,
    ) -> dict[str, list[Any]]:
        """By modality, what the caller's pipelines make of every signal of a batch.

        changes: arguments of all pipelines to replace.  Raises ConfigError for a signal without a pipeline.
        """
        made: dict[str, list[Any]] = {}
        for name, conditions in self.conditions(**batch).items():
            if name not in pipelines:
                raise ConfigError(f"the answer asks for {name}; give a pipeline for it (found {sorted(pipelines)})")
            made[name] = [run_pipeline(pipelines[name], each, SETTINGS[name], **(changes or {})) for each in conditions]
        return made
