"""Language models whose inputs are ImageBind vectors of several modalities: PandaGPT, and the linear of NExT-GPT.

    each modality -> its encoder [N, E] -> one shared linear [N, 1, D] -> spliced at placeholders -> backbone
    SummedEmbeddingLM    the vectors of all modalities of a row are summed at ONE placeholder (PandaGPT)

Trap: the linear has a bias, which the sum of two modalities contains twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import ConfigError, PromptError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM, split_dummies


class ImageBindConnector(nn.Module):
    """The linear shared by all modalities: vectors `[N, E] -> [N, 1, D]`."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_width, width)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.proj(vectors)[:, None]


class SummedEmbeddingLM(MultimodalLM):
    """`inputs` by modality; row i of the tensor of each modality belongs to the i-th placeholder."""

    SLOT = "image"

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        placeholder: int,
        inputs: Mapping[str, ModalityInputs],
    ) -> None:
        placeholders = dict.fromkeys(inputs, placeholder)
        super().__init__(encoders, connectors, backbone, placeholders, inputs=inputs, positions_ignore_padding=True)
        self.placeholders = {self.SLOT: placeholder}

    def features(self, **batch: Any) -> dict[str, Any]:
        """The sum over the modalities in the batch, `[N, 1, D]`, as input of the backbone; dummy items on their own.

        `item_counts` are needed if the rows have different modalities; otherwise each has an item per placeholder.
        """
        if batch.get("segments") is not None:
            raise PromptError("segments: the modalities of a row are summed; collate without packing")
        features, dummies = split_dummies(super().features(**batch), batch)
        return {self.SLOT: self.sum_modalities(features, batch.get("item_counts")), **dummies} if features else dummies

    def embed_inputs(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """As in MultimodalLM; features: the sum as one tensor, or a list of items per modality (as cached by chats)."""
        features = self.features(**batch) if features is None else features
        features, dummies = split_dummies(features, batch)
        inputs = {**batch, "item_counts": None, "item_tokens": None}
        if features:
            counts = None if isinstance(features.get(self.SLOT), Tensor) else batch.get("item_counts")
            return super().embed_inputs(inputs, {self.SLOT: self.sum_modalities(features, counts), **dummies})
        if bool((batch["input_ids"] == self.placeholders[self.SLOT]).any()):
            raise PromptError("this model needs an image, video, audio, thermal, depth or IMU input; found none")
        return super().embed_inputs(inputs, dummies)

    def sum_modalities(self, features: Mapping[str, Any], counts: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features `[N, 1, D]` by modality -> `[placeholders, 1, D]`.

        counts: items per row, by modality; modalities without counts have one item per row.  Raises ConfigError if the
        numbers of items do not match.
        """
        stacked = {name: torch.stack(list(items)) for name, items in features.items()}
        rows = {name: counts[name] for name in features if counts is not None and name in counts}
        if not rows:
            if len({len(items) for items in stacked.values()}) > 1:
                numbers = {name: len(items) for name, items in stacked.items()}
                raise ConfigError(f"summed modalities need equal numbers of items; found {numbers}")
            return torch.stack(list(stacked.values())).sum(0)
        first, all_rows = next(iter(stacked.values())), torch.arange(len(next(iter(rows.values()))))
        total = first.new_zeros(len(all_rows), *first.shape[1:])
        has_item = torch.zeros(len(all_rows), dtype=torch.bool, device=total.device)
        for name, items in stacked.items():
            row_of = all_rows.repeat_interleave(rows[name].cpu()) if name in rows else all_rows
            if len(row_of) != len(items):
                raise ConfigError(f"item_counts: expected {len(row_of)} items of {name}, found {len(items)}")
            total = total.index_add(0, row_of.to(total.device), items)
            has_item[row_of.to(total.device)] = True
        return total[has_item]
