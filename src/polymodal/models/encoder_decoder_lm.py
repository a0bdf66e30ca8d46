"""A MultimodalLM whose backbone is an encoder-decoder: features go into the encoder's prompt, the decoder answers.

    pixel_values -> encoders.image -> connectors.image --+
    input_ids [B,S] -> backbone.embed ------ splice -----+-> backbone.encode -> Source, the decoder's context
    decoder_input_ids [B,T] -> backbone.embed -> backbone(context=Source) -> hidden -> backbone.head -> logits [B,T,V]

Generation is that of every MultimodalLM: to it the prompt is the one start token, and the context is made once.
Traps: `input_ids` and `attention_mask` are the encoder's, `decoder_*` the decoder's; `labels` without
`decoder_input_ids` are shifted right by one; the prompt may be padded on either side, or in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polymodal.backbones.encoder_decoder import EncoderDecoder, Source, shifted_right
from polymodal.errors import PromptError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output, total
from polymodal.nn.cache import KVCache
from polymodal.nn.losses import IGNORE, token_loss
from polymodal.nn.mask import MaskSpec, padding_mask

_READ = "prompt"  # what the encoder reads, once the batch is arranged for the decoder


class EncoderDecoderLM(MultimodalLM):
    """See the module docstring; arguments as for MultimodalLM."""

    backbone: EncoderDecoder  # type: ignore[assignment]
    is_encoder_decoder = True

    def prepare_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch as generation sees it: `input_ids` of the decoder, the encoder's under `prompt`."""
        if _READ in batch:
            return dict(batch)
        if batch.get("segments") is not None:
            raise PromptError("segments: an encoder-decoder takes one sequence a row; collate the rows unpacked")
        full = super().prepare_batch(batch)
        full[_READ] = {"input_ids": full.pop("input_ids"), "attention_mask": full.pop("attention_mask", None)}
        full["input_ids"] = self._answer(full, len(full[_READ]["input_ids"]))
        for name in ("position_ids", "token_types"):  # of the prompt; the encoder counts columns by itself
            full.pop(name, None)
        mask = padding_mask(full.pop("decoder_attention_mask", None))
        return full if mask is None else {**full, "attention_mask": mask}

    def check_names(self, values: Mapping[str, Any]) -> None:
        """As for MultimodalLM; what the decoder reads first may be given."""
        own = ("decoder_input_ids", "decoder_attention_mask")
        super().check_names({name: value for name, value in values.items() if name not in own})

    def _answer(self, batch: Mapping[str, Any], rows: int) -> Tensor:
        """What the decoder reads first: given, or the start token alone."""
        if batch.get("decoder_input_ids") is not None:
            return batch["decoder_input_ids"]
        device = self.backbone.embed_tokens.weight.device
        return torch.full((rows, 1), self.backbone.config.start_id, dtype=torch.int64, device=device)

    def embed_inputs(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """The decoder's embeddings [B, T, D] of an arranged batch; features enter through `context_for`."""
        return self.backbone.embed(self.prepare_batch(batch)["input_ids"])

    def context_for(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> Source:
        """The encoder's reading of the prompt with the features spliced in."""
        prepare_batch = self.prepare_batch(batch)
        prompt = {**prepare_batch, **prepare_batch[_READ]}
        return self.backbone.encode(super().embed_inputs(prompt, features), prompt["attention_mask"])

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """The decoder's logits and hidden states [B, T, D]; the batch as for MultimodalLM, with `decoder_input_ids`.

        labels [B, T]: of the decoder; without `decoder_input_ids` these are the labels shifted right by one.
        Raises: PromptError when there are neither.
        """
        given = {name: x for name, x in batch.items() if name not in ("position_ids", "token_types")}
        self.check_names(given)
        labels = given.get("labels")
        if given.get("decoder_input_ids") is None:
            if labels is None:
                raise PromptError(
                    "an encoder-decoder needs decoder_input_ids or labels beside the prompt; found neither"
                )
            config = self.backbone.config
            given["decoder_input_ids"] = shifted_right(labels, config.start_id, config.pad_id)
        full = self.prepare_batch(given)
        features = self.features(**full)
        hidden = self.backbone(
            self.embed_inputs(full),
            mask=MaskSpec(attention_mask=full.get("attention_mask")),
            context=self.context_for(features, full),
            cache=cache,
        )
        losses = None if labels is None else self.losses(hidden, full)
        return Output(
            logits=self.compute_logits(hidden) if return_logits else None,
            hidden=hidden,
            features=features,
            loss=None if losses is None else total(losses),
            losses=losses,
        )

    def losses(self, hidden: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`language_model`: the decoder's input is shifted already, so labels stand where they are predicted."""
        learned = batch["labels"] != IGNORE
        return {"language_model": token_loss(self.backbone.head(hidden[learned]), batch["labels"][learned])}
