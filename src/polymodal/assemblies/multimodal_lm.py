"""The assembly of most systems: encoders and connectors whose features enter one language backbone.

    pixel_values [N,...] -> encoders.image -> [N,S,D'] -> connectors.image -> [N,Q,D]
                                                                                 | spliced at placeholders (type C)
    input_ids [B,T] -> backbone.embed -> [B,T,D] ----------------------------------> inputs_embeds [B,T,D]
    inputs_embeds, position_ids, mask -> backbone -> hidden [B,T,D] -> backbone.head -> logits [B,T,V]

Names are the same in every system: `encoders.image`, `connectors.image`, `backbone`; recipes train by them.
Systems of type A give a `context` module instead of a placeholder; what it makes of the features goes to the
backbone's cross-attention.
Traps: no item means no encoder call; the sequence never changes its length; `forward` gives hidden states, `logits`
gives logits, and neither ever gives the other.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.data.processor import VALUES
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.splice import splice
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec, position_ids_from_mask


class MultimodalLM(nn.Module):
    """Encoders and connectors by modality (image, audio, video), a backbone, and the placeholder id of each modality.

    A text-only model has no encoder.  context: module called as f(features by modality, batch) -> the backbone's
    `context`; modalities without a placeholder reach the backbone only that way.
    Raises: ConfigError when a modality lacks an encoder or connector, or leads nowhere.
    """

    backbone: Decoder
    context: nn.Module | None

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        placeholders: Mapping[str, int],
        context: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if set(encoders) != set(connectors) or not set(placeholders) <= set(encoders) <= set(VALUES):
            raise ConfigError(
                f"MultimodalLM: encoders {sorted(encoders)}, connectors {sorted(connectors)} and placeholders "
                f"{sorted(placeholders)} must name the same modalities out of {', '.join(VALUES)}"
            )
        if context is None and set(placeholders) != set(encoders):
            lost = sorted(set(encoders) - set(placeholders))
            raise ConfigError(f"MultimodalLM: {lost} has neither a placeholder nor a context module")
        self.encoders = nn.ModuleDict(encoders)
        self.connectors = nn.ModuleDict(connectors)
        self.backbone = backbone
        self.context = context
        self.placeholders = dict(placeholders)

    def features(self, modality: str, values: Tensor) -> Tensor:
        """Encode and connect: values [N, ...] -> features [N, Q, D] of the backbone's width."""
        if modality not in self.encoders:
            takes = ", ".join(["text", *self.encoders])
            raise PromptError(f"this model takes {takes}; found {modality}")
        return self.connectors[modality](self.encoders[modality](values))

    def all_features(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Features of every modality that has values in the batch."""
        return {name: self.features(name, batch[key]) for name, key in VALUES.items() if batch.get(key) is not None}

    def prepare(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """inputs_embeds [B, T, D] of a batch: embedded ids with features spliced at their placeholders.

        features: modality -> [N, Q, D] or a list of [q_i, D], when they are known already (encoder cache).
        Raises: PromptError when placeholders and features differ in number.
        """
        if features is None:
            features = self.all_features(batch)
        input_ids = batch["input_ids"]
        embeds = self.backbone.embed(input_ids)
        none = torch.zeros(input_ids.shape[0], dtype=torch.int64)
        for name, placeholder in self.placeholders.items():
            counts = batch.get("item_counts", {}).get(name, none)
            embeds = splice(embeds, input_ids, features.get(name, []), placeholder, counts)
        return embeds

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_types: Tensor | None = None,
        item_counts: Mapping[str, Tensor] | None = None,
        cache: KVCache | None = None,
        **values: Any,
    ) -> Tensor:
        """Hidden states [B, T, D] of a processor's batch (`model(**batch)`).

        values: pixel_values, audio_values, video_values; `labels` is let through for the objective to read.
        Raises: ConfigError for any other name, PromptError when placeholders and features differ in number.
        """
        if unknown := set(values) - {*VALUES.values(), "labels"}:
            raise ConfigError(f"MultimodalLM: does not know the inputs {sorted(unknown)}")
        batch = {"input_ids": input_ids, "item_counts": item_counts or {}, "token_types": token_types, **values}
        features = self.all_features(batch)
        if position_ids is None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            position_ids = position_ids_from_mask(mask)
        return self.backbone(
            self.prepare(batch, features),
            position_ids,
            MaskSpec(attention_mask=attention_mask),
            token_types=token_types,
            context=None if self.context is None else self.context(features, batch),
            cache=cache,
        )

    def logits(self, **batch: Any) -> Tensor:
        """Logits [B, T, V] of a processor's batch: `model.logits(**processor(messages))`."""
        return self.backbone.head(self(**batch))
