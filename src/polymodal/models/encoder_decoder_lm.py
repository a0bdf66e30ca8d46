"""A MultimodalLM with an encoder-decoder backbone: features go into the encoder's prompt, the decoder answers.

    pixel_values -> encoders.image -> connectors.image --+
    input_ids [B,S] -> backbone.embed ------ splice -----+-> backbone.encode -> Source, the decoder's context
    decoder_input_ids [B,T] -> backbone.embed -> backbone(context=Source) -> hidden -> backbone.head -> logits [B,T,V]

Generation works as for every MultimodalLM: its prompt is the start token, and the context is computed once.
Traps: `input_ids` and `attention_mask` belong to the encoder, `decoder_*` to the decoder; without `decoder_input_ids`,
the labels shifted right by one are used; the prompt may be padded on either side, or in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polymodal.backbones.encoder_decoder import EncoderDecoder, Source, shifted_right
from polymodal.errors import PromptError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output, total_loss
from polymodal.nn.cache import KVCache
from polymodal.nn.losses import IGNORE, token_loss
from polymodal.nn.mask import MaskSpec, padding_mask

_PROMPT = "prompt"  # key of the encoder's inputs in a prepared batch


class EncoderDecoderLM(MultimodalLM):
    """See the module docstring; arguments as for MultimodalLM."""

    backbone: EncoderDecoder  # type: ignore[assignment]
    is_encoder_decoder = True

    def prepare_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch for generation: `input_ids` of the decoder, the encoder's inputs under `prompt`."""
        if _PROMPT in batch:
            return dict(batch)
        if batch.get("segments") is not None:
            raise PromptError("segments: an encoder-decoder takes one sequence per row; collate without packing")
        full = super().prepare_batch(batch)
        full[_PROMPT] = {"input_ids": full.pop("input_ids"), "attention_mask": full.pop("attention_mask", None)}
        full["input_ids"] = self._decoder_input_ids(full, len(full[_PROMPT]["input_ids"]))
        for name in ("position_ids", "token_types"):  # of the prompt; the encoder computes its own positions
            full.pop(name, None)
        mask = padding_mask(full.pop("decoder_attention_mask", None))
        return full if mask is None else {**full, "attention_mask": mask}

    def check_names(self, values: Mapping[str, Any]) -> None:
        """As for MultimodalLM; `decoder_input_ids` and `decoder_attention_mask` are allowed too."""
        decoder = ("decoder_input_ids", "decoder_attention_mask")
        super().check_names({name: value for name, value in values.items() if name not in decoder})

    def _decoder_input_ids(self, batch: Mapping[str, Any], rows: int) -> Tensor:
        """`decoder_input_ids` of the batch, or the start token."""
        if batch.get("decoder_input_ids") is not None:
            return batch["decoder_input_ids"]
        device = self.backbone.embed_tokens.weight.device
        return torch.full((rows, 1), self.backbone.config.start_id, dtype=torch.int64, device=device)

    def embed_inputs(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """Decoder input embeddings [B, T, D] of a prepared batch; features enter through `context_for`."""
        return self.backbone.embed(self.prepare_batch(batch)["input_ids"])

    def context_for(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> Source:
        """Encoder output for the prompt with the features spliced in."""
        prepared = self.prepare_batch(batch)
        prompt = {**prepared, **prepared[_PROMPT]}
        return self.backbone.encode(super().embed_inputs(prompt, features), prompt["attention_mask"])

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """Decoder logits and hidden states [B, T, D]; the batch as for MultimodalLM, with `decoder_input_ids`.

        labels [B, T]: of the decoder; without `decoder_input_ids`, the labels shifted right by one are its input.
        Raises PromptError if the batch has neither.
        """
        inputs = {name: x for name, x in batch.items() if name not in ("position_ids", "token_types")}
        self.check_names(inputs)
        labels = inputs.get("labels")
        if inputs.get("decoder_input_ids") is None:
            if labels is None:
                raise PromptError("an encoder-decoder needs decoder_input_ids or labels; found neither")
            config = self.backbone.config
            inputs["decoder_input_ids"] = shifted_right(labels, config.start_id, config.pad_id)
        full = self.prepare_batch(inputs)
        features = self.features(**full)
        hidden = self.backbone(
            self.embed_inputs(full),
            full.get("position_ids"),
            mask=MaskSpec(attention_mask=full.get("attention_mask")),
            context=self.context_for(features, full),
            cache=cache,
        )
        losses = None if labels is None else self.losses(hidden, full)
        return Output(
            logits=self.compute_logits(hidden) if return_logits else None,
            hidden=hidden,
            features=features,
            loss=None if losses is None else total_loss(losses),
            losses=losses,
        )

    def losses(self, hidden: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`language_model`: the decoder input is already shifted, so labels are at the positions that predict them."""
        valid = batch["labels"] != IGNORE
        return {"language_model": token_loss(self.backbone.head(hidden[valid]), batch["labels"][valid])}
