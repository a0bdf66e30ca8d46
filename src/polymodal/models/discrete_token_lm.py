"""Language models whose vocabulary includes image tokens (fusion type D).

    pixel_values -> encoders.image (a codec) -> codes -> connectors.image (Spelling) -> token ids
    input_ids with token ids at the placeholders -> backbone.embed -> blocks -> head over text and image tokens
    generated token ids -> codes -> encoders.image.decode -> pixels

Traps: transformers' Chameleon never generates images: `suppressed` ids get the smallest logit in `logits` and in
generation, while losses use the unmodified head and train them.  Codecs are frozen, pass no gradient and stay in eval
mode, so that their batch norm statistics do not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import PromptError
from polymodal.fusion.vocabulary import Spelling, fill
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.models.output import Output
from polymodal.nn.cache import KVCache
from polymodal.nn.constant import constant


class DiscreteTokenLM(MultimodalLM):
    """codecs, spellings: by modality.  suppressed: ids that are never generated."""

    def __init__(
        self,
        codecs: Mapping[str, nn.Module],
        spellings: Mapping[str, Spelling],
        backbone: Decoder,
        placeholders: Mapping[str, int],
        inputs: Mapping[str, ModalityInputs] | None = None,
        suppressed: Sequence[int] = (),
    ) -> None:
        super().__init__(codecs, spellings, backbone, placeholders, inputs=inputs)
        self.suppressed = tuple(suppressed)

    def train(self, mode: bool = True) -> DiscreteTokenLM:
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def tokens(self, modality: str, batch: Mapping[str, Any]) -> Tensor | list[Tensor]:
        """Token ids of all items of a modality: int64 [N, S], or a list of [s_i]."""
        return super().encode(modality, batch)

    def encode(self, modality: str, batch: Mapping[str, Any]) -> Any:
        """Embedded token ids: [N, S, D], or a list of [s_i, D]."""
        ids = self.tokens(modality, batch)
        return self.backbone.embed(ids) if isinstance(ids, Tensor) else [self.backbone.embed(each) for each in ids]

    def vocabulary_ids(self, modality: str) -> Tensor:
        """int64 ids of a codec's codes in the vocabulary.  Raises PromptError for a modality without a codec."""
        spelling = dict(self.connectors.items()).get(modality)
        if not isinstance(spelling, Spelling):
            raise PromptError(f"{modality} has no token ids in the vocabulary")
        return spelling.vocabulary.ids(spelling.codec)

    def with_token_ids(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with token ids instead of pixels: placeholders in `input_ids` and `labels` are replaced.

        To train on image tokens, put the placeholder id into the labels at their positions.
        """
        result = {key: value for key, value in batch.items() if value is not None}
        for name, inputs in self.inputs.items():
            if result.get(inputs.values) is None:
                continue
            items = list(self.tokens(name, result))
            for key in ("input_ids", "labels"):
                if key in result and bool((result[key] == self.placeholders[name]).any()):
                    result[key] = fill(result[key], items, self.placeholders[name])
            for used in inputs.names:
                result.pop(used, None)
            for key in ("item_counts", "item_tokens"):  # the items are text tokens now
                if result.get(key) is not None:
                    result[key] = {modality: value for modality, value in result[key].items() if modality != name}
        return result

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """As MultimodalLM; placeholders in labels are replaced by the token ids of the items."""
        self.check_names(batch)
        if batch.get("labels") is not None:
            batch = self.with_token_ids(batch)
        return super().forward(cache=cache, return_logits=return_logits, **batch)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the head; `suppressed` ids get the smallest value of the dtype."""
        logits = self.backbone.head(hidden)
        if not self.suppressed:
            return logits
        ids = constant(self.suppressed, torch.int64, logits.device)
        return logits.index_fill(-1, ids, torch.finfo(logits.dtype).min)

    @torch.no_grad()
    def pixels(self, modality: str, ids: Tensor, height: int, width: int) -> Tensor:
        """Token ids [N, S] of complete grids, row ends included -> pixels [N, 3, H, W] in about [-1, 1].

        Raises PromptError if the ids are not a grid of this size, ConfigError if the codec has no decoder.
        """
        spelling: Any = self.connectors[modality]
        codec: Any = self.encoders[modality]
        if not isinstance(spelling, Spelling):
            raise PromptError(f"{modality} has no token ids in the vocabulary")
        return codec.decode(spelling.codes(ids, height, width))
