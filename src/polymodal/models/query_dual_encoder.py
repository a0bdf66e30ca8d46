"""InternVL-14B: a tower against a language model that can look, in one joint space (arXiv 2312.14238).

    pixel_values -> encoders.image -> connectors.image (pooling) [N, E]                                    InternVL-C
       the same states -> keys of the queries in encoders.text -> connectors.queries (pooling) -> unit length
                          + the pooled states at unit length [N, E]                                        InternVL-G
    input_ids -> encoders.text, causal, nothing seen -> last token -> connectors.text [B, E]
    queries + text, which sees them -> connectors.match on the queries, their mean [B, 2]: no, yes          (matching)

Traps: queries see each other both ways, text does not look at the picture itself; without a mask, id 0 is padding; a
text's vector is that of its last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import ConfigError, PromptError
from polymodal.models.dual_encoder import DualEncoder, l2_normalise
from polymodal.models.output import Output
from polymodal.nn.mask import MaskSpec


class QueryDualEncoder(DualEncoder):
    """See the module docstring.  connectors: image, queries, text and match.  queried: pictures as InternVL-G does."""

    def __init__(
        self, image: nn.Module, text: Decoder, connectors: Mapping[str, nn.Module], queries: int, queried: bool
    ) -> None:
        super().__init__({"image": image, "text": text})
        self.connectors = nn.ModuleDict(connectors)
        self.queries = nn.Parameter(torch.zeros(queries, text.config.width))
        self.queried = queried

    @property
    def _text(self) -> Decoder:
        decoder = self.encoders["text"]
        assert isinstance(decoder, Decoder)
        return decoder

    def features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **other: Any,
    ) -> dict[str, Tensor]:
        """Vectors [N, E] of every modality in the batch, not normalised.  PromptError without any."""
        if unknown := [name for name, value in other.items() if value is not None]:
            raise ConfigError(f"QueryDualEncoder: does not know the inputs {unknown}")
        found = {}
        if pixel_values is not None:
            found["image"] = self.image_vectors(self.encoders["image"](pixel_values))
        if input_ids is not None:
            found["text"] = self.text_vectors(input_ids, attention_mask)
        if not found:
            raise PromptError("QueryDualEncoder: expected pixel_values or input_ids, found neither")
        return found

    def image_vectors(self, states: Tensor) -> Tensor:
        """[N, S, D'] of the tower -> [N, E]."""
        pooled: Tensor = self.connectors["image"](states)
        if not self.queried:
            return pooled
        asked = self.connectors["queries"](self.looked(states))
        return l2_normalise(asked) + l2_normalise(pooled)

    def looked(self, states: Tensor, embeds: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The language model's states [N, Q + T, D] of the queries, which see the picture, and of text behind them."""
        count = len(self.queries)
        x = self.queries.expand(len(states), -1, -1)
        rule = MaskSpec(causal=False)
        if embeds is not None:
            x = torch.cat((x, embeds.to(x.dtype)), 1)
            spans = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
            spans[:, :count] = 1
            real = None if mask is None else torch.cat((torch.ones_like(spans[:, :count]), mask.long()), 1)
            rule = MaskSpec(attention_mask=real, two_way=spans)
        return self._text(x, torch.arange(x.shape[1], device=x.device)[None], rule, context=states)

    def text_vectors(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[B, T] -> [B, E]"""
        real = input_ids > 0 if attention_mask is None else attention_mask.bool()
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        states = self._text(self._text.embed(input_ids), positions, MaskSpec(attention_mask=real.long()))
        last = states[torch.arange(len(states), device=states.device), real.sum(1) - 1]
        vectors: Tensor = self.connectors["text"](last)
        return vectors

    def matching(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Match logits [B, 2] (no, yes) of picture i and text i."""
        real = input_ids > 0 if attention_mask is None else attention_mask
        states = self.looked(self.encoders["image"](pixel_values), self._text.embed(input_ids), real)
        logits: Tensor = self.connectors["match"](states[:, : len(self.queries)]).mean(1)
        return logits

    def forward(self, *, use_image_text_matching_head: bool = False, return_loss: bool = False, **batch: Any) -> Output:
        """As for DualEncoder; with `use_image_text_matching_head` the logits are `matching`'s [B, 2]."""
        if use_image_text_matching_head:
            return Output(logits=self.matching(**batch))
        return super().forward(return_loss=return_loss, **batch)
