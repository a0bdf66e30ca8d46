"""The assembly of systems whose pictures are ids of the language model's own vocabulary (fusion type D).

    pixel_values -> encoders.image (a codec) -> codes -> connectors.image (Spelling) -> token ids
    input_ids with token ids at the placeholders -> backbone.embed -> blocks -> head over text and pictures alike
    token ids that were written -> codes -> encoders.image.decode -> pixels

Traps: transformers' Chameleon never writes a picture: `silent` ids get the least logit in `logits` and in generation,
while an objective reads the bare head and learns them; codecs are frozen, give no gradient and stay in evaluation
mode, since batch norms of theirs must not follow what is encoded.
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
    """codecs, spellings: by modality.  silent: ids that inference never writes."""

    def __init__(
        self,
        codecs: Mapping[str, nn.Module],
        spellings: Mapping[str, Spelling],
        backbone: Decoder,
        placeholders: Mapping[str, int],
        inputs: Mapping[str, ModalityInputs] | None = None,
        silent: Sequence[int] = (),
    ) -> None:
        super().__init__(codecs, spellings, backbone, placeholders, inputs=inputs)
        self.silent = tuple(silent)

    def train(self, mode: bool = True) -> DiscreteTokenLM:
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def tokens(self, modality: str, batch: Mapping[str, Any]) -> Tensor | list[Tensor]:
        """Token ids of all items: int64 [N, S], or a list of [s_i]."""
        return super().encode(modality, batch)

    def encode(self, modality: str, batch: Mapping[str, Any]) -> Any:
        """The embedded token ids: [N, S, D], or a list of [s_i, D]."""
        ids = self.tokens(modality, batch)
        return self.backbone.embed(ids) if isinstance(ids, Tensor) else [self.backbone.embed(each) for each in ids]

    def vocabulary_ids(self, modality: str) -> Tensor:
        """int64 ids that a codec's codes have in the vocabulary.  Raises PromptError for another modality."""
        spelling = dict(self.connectors.items()).get(modality)
        if not isinstance(spelling, Spelling):
            raise PromptError(f"{modality} is not spelled in ids")
        return spelling.vocabulary.ids(spelling.codec)

    def spelled(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with token ids in place of pixels: `input_ids`, and `labels` where they hold a placeholder.

        An objective that is to learn pictures too gets labels with the placeholder's id at their places.
        """
        found = {key: value for key, value in batch.items() if value is not None}
        for name, given in self.inputs.items():
            if found.get(given.values) is None:
                continue
            items = list(self.tokens(name, found))
            for key in ("input_ids", "labels"):
                if key in found and bool((found[key] == self.placeholders[name]).any()):
                    found[key] = fill(found[key], items, self.placeholders[name])
            for used in given.names:
                found.pop(used, None)
            for fact in ("item_counts", "item_tokens"):  # its items are words now
                if found.get(fact) is not None:
                    found[fact] = {key: value for key, value in found[fact].items() if key != name}
        return found

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """As for MultimodalLM; labels that hold a placeholder learn the token ids of its items."""
        self.check_names(batch)
        if batch.get("labels") is not None:
            batch = self.spelled(batch)
        return super().forward(cache=cache, return_logits=return_logits, **batch)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the head, the least number at `silent` ids."""
        logits = self.backbone.head(hidden)
        if not self.silent:
            return logits
        where = constant(self.silent, torch.int64, logits.device)
        return logits.index_fill(-1, where, torch.finfo(logits.dtype).min)

    @torch.no_grad()
    def pixels(self, modality: str, ids: Tensor, height: int, width: int) -> Tensor:
        """Token ids [N, S] of whole grids, row ends included -> pixels [N, 3, H, W] in about [-1, 1].

        Raises PromptError for ids that are not a grid of this size, ConfigError for a codec that only encodes.
        """
        spelling: Any = self.connectors[modality]
        codec: Any = self.encoders[modality]
        if not isinstance(spelling, Spelling):
            raise PromptError(f"{modality} is not spelled in ids")
        return codec.decode(spelling.codes(ids, height, width))
